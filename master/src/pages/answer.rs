//! An HTTP answer as a response record holds it: status line, headers, payload.

use trawl_shared::warc::split_head;

/// The parts of an HTTP answer, borrowed from its record.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// Such as `HTTP/1.1 200 OK`.
    pub status_line: &'a [u8],
    /// The body as received: transfer coding undone, content coding kept.
    pub payload: &'a [u8],
    headers: &'a [u8],
}

impl<'a> Answer<'a> {
    /// Takes a response record's block apart; none if its header does not end.
    pub fn parse(block: &'a [u8]) -> Option<Self> {
        let (head, payload) = split_head(block)?;
        let (status_line, headers) = split_line(head);
        Some(Self { status_line, payload, headers })
    }

    /// The status, as a number and as written.
    pub fn status(&self) -> Option<&'a str> {
        let status = self.status_line.split(|byte| *byte == b' ').nth(1)?;
        str::from_utf8(status).ok()
    }

    /// The headers in order, values as bytes. Lines without a colon are left out.
    pub fn headers(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut rest = self.headers;
        std::iter::from_fn(move || {
            while !rest.is_empty() {
                let (line, tail) = split_line(rest);
                rest = tail;
                if let Some(colon) = line.iter().position(|byte| *byte == b':') {
                    return Some((&line[..colon], line[colon + 1..].trim_ascii()));
                }
            }
            None
        })
    }

    /// The first value of a header; names know no case.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers()
            .find(|(key, _)| key.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }
}

fn split_line(text: &[u8]) -> (&[u8], &[u8]) {
    match text.windows(2).position(|window| window == b"\r\n") {
        Some(end) => (&text[..end], &text[end + 2..]),
        None => (text, &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_an_answer() {
        let block =
            b"HTTP/1.1 404 Not Found\r\na: 1\r\nB:\xe9 \r\nnonsense\r\na: 2\r\n\r\nx\r\n\r\ny";
        let answer = Answer::parse(block).unwrap();
        assert_eq!(answer.status_line, b"HTTP/1.1 404 Not Found");
        assert_eq!(answer.status(), Some("404"));
        assert_eq!(answer.payload, b"x\r\n\r\ny");
        let headers: Vec<_> = answer.headers().collect();
        assert_eq!(headers, [(&b"a"[..], &b"1"[..]), (b"B", b"\xe9"), (b"a", b"2")]);
        assert_eq!(answer.header("A"), Some(&b"1"[..]));
        assert_eq!(answer.header("c"), None);
    }

    #[test]
    fn odd_answers() {
        assert!(Answer::parse(b"HTTP/1.1 200 OK\r\na: b\r\n").is_none());
        let bare = Answer::parse(b"HTTP/1.1 799 \r\n\r\n").unwrap();
        assert_eq!((bare.status(), bare.headers().count()), (Some("799"), 0));
        let empty = Answer::parse(b"\r\n").unwrap();
        assert_eq!((empty.status(), empty.payload), (None, &b""[..]));
    }
}
