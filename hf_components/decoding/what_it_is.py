"""What a file is that no decoder reads, and what to do with it, in words."""

from .ends import content_of, what_is_missing

# By the first bytes, without white space before them.
STARTS = (
    (b"PK\x03\x04", "a ZIP archive; unpack it"),
    (b"\x1f\x8b", "compressed by gzip; unpack it"),
    (b"BZh", "compressed by bzip2; unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it"),
    (b"Rar!", "a RAR archive; unpack it"),
    (b"\0\x05\x16\x07", "what a Mac keeps beside a recording (AppleDouble), and no sound; leave it out"),
    (b"NIST_1A", "a SPHERE file with compressed samples; convert it, for example with sph2pipe -f wav"),
    (b"\x02dss", "a DSS file of a dictation machine; convert it to WAV, for example with ffmpeg -i"),
    (b"\x03ds2", "a DS2 file of a dictation machine; save it as WAV in the program of its maker"),
    (b"%PDF", "a PDF; leave it out"),
    (b"<", "a web page or XML, as broken downloads are; get the recording again"),
    (b"{", "JSON, as broken downloads are; get the recording again"),
)
NOBODY = "neither libsndfile nor FFmpeg reads it"


def what_it_is(source: str | bytes, head: bytes) -> str:
    """Words for a file that cannot be read; `head` holds its first bytes."""
    for start, words in STARTS:
        if head.lstrip().startswith(start):
            return f"it is {words}"
    if head[4:8] == b"ftyp" and not _holds(source, b"moov"):
        return (
            "its index (moov), which is written last, is missing: the recording or its copy broke off; get it again, "
            "or repair it (untrunc) and convert it to WAV or FLAC"
        )
    if not any(head):
        return f"its first {len(head)} bytes are zero, as after a copy that broke off; get it again"
    if missing := what_is_missing(source):
        return missing
    if head.isascii() and head.decode().replace("\r", "").replace("\n", "").replace("\t", "").isprintable():
        return f"{NOBODY}: it is text, which begins with {head[:20].decode()!r}; leave it out"
    return f"{NOBODY}; convert it to WAV or FLAC"


def _holds(source: str | bytes, mark: bytes) -> bool:
    with content_of(source) as content:
        return content.find(mark) >= 0
