//! Bytes put aside, and what stands in their place.
//!
//! Where something was cut out of the middle of a segment a record about that fills the
//! gap to the byte, so that no other page moves, and whoever reads WARC passes over it.
//! At the end of a segment it is cut off.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use flate2::Crc;
use trawl_shared::{
    clock,
    warc::{Head, MemberWriter, RECORD_END, RecordId, RecordType, seeded_rng, warcinfo_block},
};

use super::{RepairError, index::Index};
use crate::{data_dir::DataDir, pages::Segments};

/// Bytes that can be filled at least.
pub(super) const BYTES_MIN: u64 = 512;

/// Bytes of one record that fills a gap.
const FILLER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Bytes of a block that deflate stores as it is.
const STORED_BYTES_MAX: u64 = 65_535;

/// Puts aside what is to be, and makes the segments that are missing.
pub(super) fn put_aside(
    data: &DataDir,
    segments: &Segments,
    index: &Index,
) -> Result<(), RepairError> {
    let aside = data.path().join("aside").join(segments.crawl());
    let failed = |path: &Path, source| RepairError::Aside { path: path.into(), source };
    if !index.aside.is_empty() {
        fs::create_dir_all(&aside).map_err(|error| failed(&aside, error))?;
        // Down to the directory that it is in.
        let made = aside.ancestors().skip(1).take(2).try_for_each(sync);
        made.map_err(|error| failed(&aside, error))?;
    }
    for (number, pieces) in &index.aside {
        let path = segments.path(*number);
        for (from, to) in pieces {
            let copy = aside.join(format!("{}.{from}-{to}", segments.file_name(*number)));
            copy_out(&path, *from, *to, &copy).map_err(|error| failed(&copy, error))?;
            fill(segments, *number, *from, *to).map_err(|error| failed(&path, error))?;
        }
    }
    if !index.missing.is_empty() {
        fs::create_dir_all(segments.dir()).map_err(|error| failed(segments.dir(), error))?;
    }
    for number in &index.missing {
        let path = segments.path(*number);
        let made = write_whole(&path, &mut &head(segments, *number)[..]);
        made.map_err(|error| failed(&path, error))?;
    }
    Ok(())
}

/// What a segment begins with.
pub(super) fn head(segments: &Segments, number: u32) -> Vec<u8> {
    let block = warcinfo_block(&[("isPartOf", segments.crawl())]);
    let head =
        Head::new(RecordType::Warcinfo, RecordId::random(&mut seeded_rng()), clock::wall_now())
            .field("WARC-Filename", segments.file_name(number))
            .field("Content-Type", "application/warc-fields")
            .finish(block.len());
    let mut member = Vec::new();
    let pieces = [head.as_bytes(), block.as_bytes(), RECORD_END];
    // Not compressed, so that it has the same length whenever it is made.
    let _ = MemberWriter::gzip(0).write(&pieces, &mut member);
    member
}

fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Copies a piece of a segment. A copy of that name is one that an earlier repair put
/// aside, and may be all that there is of those bytes: it stays, and this one gets a number.
fn copy_out(segment: &Path, from: u64, to: u64, copy: &Path) -> io::Result<()> {
    let mut segment = File::open(segment)?;
    segment.seek(SeekFrom::Start(from))?;
    let mut name = copy.to_owned();
    for number in 1.. {
        if !name.try_exists()? {
            break;
        }
        name = with_suffix(copy, &number.to_string());
    }
    write_whole(&name, &mut segment.take(to - from))
}

/// Makes a file, or puts another in its place: all of it or nothing, and durable.
fn write_whole(path: &Path, from: &mut impl Read) -> io::Result<()> {
    let partial = with_suffix(path, "partial");
    let mut file = File::create(&partial)?;
    io::copy(from, &mut file)?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    path.parent().map_or(Ok(()), sync)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(".");
    path.push(suffix);
    path.into()
}

/// Fills a gap, or cuts off the end.
fn fill(segments: &Segments, number: u32, from: u64, to: u64) -> io::Result<()> {
    let path = segments.path(number);
    if fs::metadata(&path)?.nlink() > 1 {
        // Of a dump it was loaded from, which is to stay as it is.
        write_whole(&path, &mut File::open(&path)?)?;
    }
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    if file.metadata()?.len() <= to {
        file.set_len(from)?;
        if from == 0 {
            file.write_all_at(&head(segments, number), 0)?;
        }
        return file.sync_all();
    }
    let mut at = from;
    while at < to {
        let left = to - at;
        // What is left for the last one is enough.
        let bytes = if left > FILLER_BYTES_MAX { FILLER_BYTES_MAX - BYTES_MIN } else { left };
        let filler = filler(bytes).ok_or_else(|| io::Error::other("the gap is too short"))?;
        file.write_all_at(&filler, at)?;
        at += bytes;
    }
    file.sync_all()
}

/// A gzip member of this length that holds one record about nothing.
fn filler(bytes: u64) -> Option<Vec<u8>> {
    const FRAME: u64 = 18;
    const BLOCK: u64 = 5;
    let room = bytes.checked_sub(FRAME)?;
    let blocks = room.div_ceil(STORED_BYTES_MAX + BLOCK);
    let record = record(room.checked_sub(blocks * BLOCK)?)?;
    let mut member = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    let mut chunks: Vec<&[u8]> = record.chunks(STORED_BYTES_MAX as usize).collect();
    chunks.resize(blocks as usize, &[]);
    for (number, chunk) in chunks.iter().enumerate() {
        let is_last = number + 1 == chunks.len();
        let length = chunk.len() as u16;
        member.push(u8::from(is_last));
        member.extend_from_slice(&length.to_le_bytes());
        member.extend_from_slice(&(!length).to_le_bytes());
        member.extend_from_slice(chunk);
    }
    let mut crc = Crc::new();
    crc.update(&record);
    member.extend_from_slice(&crc.sum().to_le_bytes());
    member.extend_from_slice(&crc.amount().to_le_bytes());
    Some(member)
}

/// A record of this length.
fn record(bytes: u64) -> Option<Vec<u8>> {
    let id = RecordId::random(&mut seeded_rng());
    let date = clock::wall_now();
    // The length is told within what it is the length of; a field may have to make up
    // for a digit.
    (0..3).find_map(|more| {
        let head = |block: usize| {
            Head::new(RecordType::Warcinfo, id, date)
                .field("Content-Type", "application/warc-fields")
                .field("WARC-Filename", "repaired".to_owned() + &"x".repeat(more))
                .finish(block)
        };
        (1..9).find_map(|digits| {
            let frame = head(10usize.pow(digits - 1)).len() + RECORD_END.len();
            let block = usize::try_from(bytes).ok()?.checked_sub(frame)?;
            let record = [head(block).as_bytes(), &filling(block), RECORD_END].concat();
            (record.len() as u64 == bytes).then_some(record)
        })
    })
}

fn filling(bytes: usize) -> Vec<u8> {
    let mut block = b"description: bytes that were no page were put aside\r\n".to_vec();
    block.resize(bytes, b' ');
    block
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;
    use trawl_shared::warc::{RECORD_BYTES_MAX, Record, read_member};

    use super::*;

    #[test]
    fn a_gap_of_any_length_is_filled_by_one_record() {
        let lengths = (BYTES_MIN..2_000).chain(65_000..66_500).chain([
            100_000,
            131_000,
            131_100,
            999_999,
            1_000_300,
            FILLER_BYTES_MAX,
        ]);
        for length in lengths {
            let member = filler(length).unwrap_or_else(|| panic!("{length}"));
            assert_eq!(member.len() as u64, length);
            let mut out = Vec::new();
            let read = read_member(&mut &member[..], RECORD_BYTES_MAX, &mut out).unwrap();
            assert_eq!(read, length);
            assert_eq!(Record::parse(&out).unwrap().kind, RecordType::Warcinfo);
        }
    }

    #[test]
    fn what_was_put_aside_stays() {
        let dir = TempDir::new().unwrap();
        let (segment, copy) = (dir.path().join("segment"), dir.path().join("segment.2-5"));
        for (bytes, number) in [("..one..", ""), ("..two..", ".1"), ("..tri..", ".2")] {
            fs::write(&segment, bytes).unwrap();
            copy_out(&segment, 2, 5, &copy).unwrap();
            let copied = fs::read_to_string(format!("{}{number}", copy.display())).unwrap();
            assert_eq!(copied, bytes[2..5]);
        }
        assert_eq!(fs::read_to_string(&copy).unwrap(), "one");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4, "nothing is left half done");
    }
}
