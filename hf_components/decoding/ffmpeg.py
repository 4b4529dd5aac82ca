"""Read sound files with FFmpeg (package `av`): formats of phones and browsers, and those in `READ_IN_PART`."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np

# Demuxers for files that contain their sound. Playlists, which open other files or addresses, are not among them.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mp3,ogg,wav,w64,aiff,flac,aac,amr,amrnb,amrwb,asf,caf,au,avi,ac3,eac3,adts,"
    "ape,wv,tta,flv,mpeg,mpegts"
)
FRAME_COUNT = re.compile(rb"(?:Xing|Info)...[\x01\x03\x05\x07\x09\x0b\x0d\x0f](....)", re.DOTALL)  # of an MP3
SEARCHED = 1 << 12  # bytes after the ID3 tag that are searched for it
ID3 = 10  # bytes in the header of an ID3 tag
JOINED = ("mp3", "aac")  # files of these are often joined, and a tag between them is a packet that cannot be decoded
TELL_LENGTH = ("matroska", "flv", "tta")  # their headers do; of other formats FFmpeg may only estimate it
LONGEST_PACKET = 60.0  # seconds; of short Ogg files FFmpeg gives the last packet a negative duration, as 2^32 less it

av.logging.set_level(av.logging.PANIC)  # problems that matter are exceptions


class FFmpegFile:
    """The first sound track of a file.

    Args:
        source: path or bytes of the file.
    Raises:
        av.FFmpegError: FFmpeg does not know the format, or the file has no sound.
    """

    def __init__(self, source: Path | bytes):
        # Opened here and not by FFmpeg, which would also accept an address as path.
        self.file = io.BytesIO(source) if isinstance(source, bytes) else io.BufferedReader(io.FileIO(source))
        try:
            frames = _promised_frames(self.file)
            self.container = av.open(self.file, options={"format_whitelist": FORMATS}, metadata_errors="replace")
            tracks = [track for track in self.container.streams.audio if track.codec_context is not None]
            if not tracks:
                raise av.error.DecoderNotFoundError(0, "no sound track that can be decoded")
        except BaseException:
            self.file.close()
            raise
        self.track = tracks[0]
        self.samplerate = self.track.rate
        self.lost = 0.0  # seconds in packets that could not be decoded
        # Seconds; None if FFmpeg would only estimate them from size and bit rate.
        self.promised = None
        if self.container.format.name == "mp3" and frames:
            self.promised = frames * (1152 if self.samplerate >= 32_000 else 576) / self.samplerate
        elif self.container.format.name.startswith("mov") and self.track.duration:
            self.promised = float(self.track.duration * self.track.time_base)
        elif self.container.format.name.startswith(TELL_LENGTH) and len(self.container.streams) == 1:
            self.promised = self.container.duration and self.container.duration / av.time_base

    def __enter__(self) -> "FFmpegFile":
        return self

    def __exit__(self, *error) -> None:
        self.container.close()
        self.file.close()

    def seconds(self) -> float:
        """Length from the headers of all packets, else from that of the file. Do not call `blocks` afterwards."""
        packets = (
            packet.duration * packet.time_base for packet in self.container.demux(self.track) if packet.duration
        )
        seconds = float(sum(length for length in packets if length < LONGEST_PACKET))
        return seconds or (self.container.duration or 0) / av.time_base

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """All samples as float32 (frames, channels), in blocks of `size` frames; the last is shorter, maybe empty."""
        waiting: list[np.ndarray] = []
        frames = 0
        for part in self._parts():
            waiting.append(part)
            frames += len(part)
            while frames >= size:
                joined = np.concatenate(waiting)
                yield joined[:size]
                waiting = [joined[size:]]
                frames -= size
        yield np.concatenate(waiting) if waiting else np.zeros((0, 1), np.float32)

    def _parts(self) -> Iterator[np.ndarray]:
        resampler = layout = None
        setting = None  # format of the last frame; it may change in joined files
        for packet in self.container.demux(self.track):
            try:
                decoded = packet.decode()
            except av.FFmpegError:  # damage, or a tag between joined files
                if self.container.format.name not in JOINED:
                    self.lost += float((packet.duration or 0) * packet.time_base)
                continue
            for frame in decoded:
                if (frame.format.name, frame.layout.name, frame.sample_rate) != setting:
                    if resampler is not None:
                        yield from _arrays(resampler.resample(None))
                    setting = frame.format.name, frame.layout.name, frame.sample_rate
                    layout = layout or frame.layout.name
                    # Packed: of planar frames, `av` reads no more than eight channels, and crashes at the ninth.
                    resampler = av.AudioResampler(format="flt", layout=layout, rate=self.samplerate)
                frame.pts = None  # else the resampler may add or drop samples at gaps in time
                yield from _arrays(resampler.resample(frame))
        if resampler is not None:
            yield from _arrays(resampler.resample(None))


def _arrays(frames: list[av.AudioFrame]) -> Iterator[np.ndarray]:
    return (frame.to_ndarray().reshape(-1, frame.layout.nb_channels) for frame in frames)


def _promised_frames(file: BinaryIO) -> int | None:
    """The number of frames in the header of an MP3; for joined files that of the first."""
    file.seek(id3_size(file.read(ID3)))
    found = FRAME_COUNT.search(file.read(SEARCHED))
    file.seek(0)
    return int.from_bytes(found[1], "big") if found else None


def id3_size(head: bytes) -> int:
    """Size in bytes of the ID3 tag at the start of a file, or 0; `head` has at least the first ten bytes."""
    if head[:3] != b"ID3" or len(head) < ID3:
        return 0
    return ID3 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
