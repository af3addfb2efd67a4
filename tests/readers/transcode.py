"""Real pages in the charsets of their languages, by Python's codecs.

    transcode.py MANUAL OUT

Reads pages of Apache's manual, which people have written in many languages, takes out what they
declare, and writes each into OUT, for every charset of its language: the bytes to CHARSET.N.page,
the text that they mean to CHARSET.N.text. Characters that a charset lacks become references, as
editors write them.
"""

import re
import sys
from pathlib import Path

# Language, the web's name of a charset, and Python's.
CHARSETS = [
    ("zh-cn", "gbk", "gbk"),
    ("zh-cn", "gb18030", "gb18030"),
    ("ja", "shift_jis", "cp932"),
    ("ja", "euc-jp", "euc_jp"),
    ("ja", "iso-2022-jp", "iso2022_jp"),
    ("ko", "euc-kr", "cp949"),
    ("ru", "windows-1251", "cp1251"),
    ("ru", "koi8-r", "koi8_r"),
    ("ru", "iso-8859-5", "iso8859_5"),
    ("tr", "windows-1254", "cp1254"),
    ("fr", "windows-1252", "cp1252"),
    ("de", "iso-8859-15", "iso8859_15"),
    *[(language, "utf-8", "utf_8") for language in ("zh-cn", "ja", "ko", "ru", "tr")],
    *[(language, "utf-16le", "utf_16_le") for language in ("zh-cn", "ja", "ru", "fr")],
    *[(language, "utf-16be", "utf_16_be") for language in ("zh-cn", "ko", "ru", "fr")],
]

# No page of the manual is in these languages; the words are an encyclopedia's first ones.
WRITTEN = [
    ("big5", "big5", "台灣是位於東亞的島嶼，西隔台灣海峽與中國大陸相望。島上大部分是山地，平原主要集中在西部沿海，人口也多居住在那裡。"),
    ("windows-1250", "cp1250", "Příliš žluťoučký kůň úpěl ďábelské ódy. Łódź leży w środkowej Polsce, a Wrocław nad Odrą; język jest źródłem kłopotów."),
    ("windows-1253", "cp1253", "Η Ελλάδα βρίσκεται στη νοτιοανατολική Ευρώπη, στο νοτιότερο άκρο της Βαλκανικής χερσονήσου, και έχει πολλά νησιά."),
    ("windows-1255", "cp1255", "ירושלים היא עיר הבירה של מדינת ישראל והעיר הגדולה ביותר בה, והיא אחת הערים העתיקות בעולם."),
    ("windows-1256", "cp1256", "القاهرة هي عاصمة جمهورية مصر العربية وأكبر وأهم مدنها على الإطلاق وتعد أكبر مدينة عربية من حيث تعداد السكان."),
    ("windows-1257", "cp1257", "Vilnius yra Lietuvos sostinė ir didžiausias šalies miestas, įsikūręs šalies pietryčiuose, kur Vilnia įteka į Nerį."),
    ("windows-874", "cp874", "กรุงเทพมหานครเป็นเมืองหลวงและนครที่มีประชากรมากที่สุดของประเทศไทย เป็นศูนย์กลางการปกครอง การศึกษา การคมนาคมขนส่ง"),
]

# Python and the Encoding Standard read these differently.
JAPANESE_DIFFERENCES = str.maketrans({c: f"&#{ord(c)};" for c in "〜−‖¢£¬—～－∥￠￡￢―\\~¥‾"})

PAGES = 3


def pages(manual, language):
    sizes = lambda path: -sum(byte > 127 for byte in path.read_bytes())
    # What is not translated is a link to another language's page.
    paths = [path for path in (manual / language).glob("*.html") if not path.is_symlink()]
    for path in sorted(paths, key=sizes)[:PAGES]:
        text = path.read_bytes()
        charset = re.search(rb"charset=([-\w]+)", text)
        if charset is None:
            sys.exit(f"{path} does not say what it is written in")
        text = text.decode(charset[1].decode()).replace("\r\n", "\n")
        text = re.sub(r"<\?xml[^>]*>|<meta[^>]*charset[^>]*>", "", text, flags=re.IGNORECASE)
        yield text.lstrip("\ufeff\n")


def write(out, charset, number, codec, text):
    if codec in ("cp932", "euc_jp", "iso2022_jp"):
        text = text.translate(JAPANESE_DIFFERENCES)
    page = text.encode(codec, "xmlcharrefreplace")
    (out / f"{charset}.{number}.page").write_bytes(page)
    (out / f"{charset}.{number}.text").write_bytes(page.decode(codec).encode())


def main(manual, out):
    numbers = iter(range(1000))
    for language, charset, codec in CHARSETS:
        for text in pages(manual, language):
            write(out, charset, next(numbers), codec, text)
    for charset, codec, words in WRITTEN:
        text = f"<!doctype html><title>{words[:20]}</title><p>{words}<a href=/next>{words[:9]}</a>"
        write(out, charset, next(numbers), codec, text)


main(Path(sys.argv[1]), Path(sys.argv[2]))
