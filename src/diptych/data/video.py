"""Frames of a video by number: only what they need is decoded.

A first pass reads the packets, without decoding, and so knows all frames and their times. Wanted frames are
then decoded from the key frame before them; of H.264, pictures that no other refers to are left out unless
they are wanted. The pixels are those of a decoder that is given everything.

Legend: V frames of the video, n wanted ones.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diptych.data.decode import Pixels
from diptych.data.frames import Frames, Times
from diptych.data.raw.refs import MediumError
from diptych.data.raw.video import first_video, open_video, start_of, turned

if TYPE_CHECKING:
    from av.codec.context import CodecContext
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.reformatter import VideoReformatter

KEPT_PACKETS = 64 * 2**20
"""Bytes of packets that are kept from the first pass; those of larger videos are read again."""
_START_CODE = b"\0\0\1"
_SLICES = frozenset({1, 2, 3, 4, 5})
"""Kinds of H.264 units that hold picture."""
_WHOLE = 5
"""The kind of those that start anew (IDR)."""
_VISIBLE = 0x10
"""Bit in the first byte of a VP8 frame that is shown."""


class _UnsoundError(Exception):
    """What the packets tell of the frames is not what the decoder gives."""


@dataclass
class _Survey:
    """What the first pass finds; packets are numbered in decoding order."""

    times: list[int] = field(default_factory=list)
    """When packets that show a frame show it, in units of the stream."""
    at: list[int] = field(default_factory=list)
    """Numbers of those packets."""
    keys: list[int] = field(default_factory=list)
    """Numbers of packets where decoding can start."""
    key_times: list[int] = field(default_factory=list)
    spare: set[int] = field(default_factory=set)
    """Numbers of packets that no other one needs."""
    packets: "list[Packet[Any]] | None" = field(default_factory=list)
    """All of them, if they are not too large."""
    sound: bool = True
    """Whether every frame has a time of its own and the first one can be decoded."""


class VideoFrames:
    """An open video (`open_frames`).

    Attributes:
        times: [V] seconds at which its frames are shown, as players count them.
    """

    def __init__(self, source: bytes | Path, container: "InputContainer") -> None:
        self._source = source
        self._stream = first_video(container)
        self._zero, self._base = float(start_of(container)), float(self._stream.time_base or 0)
        self._found = _survey(container, self._stream)
        order = np.argsort(np.array(self._found.times, dtype=np.int64), kind="stable")
        self._shown = np.array(self._found.times, dtype=np.int64)[order]
        self._at = np.array(self._found.at, dtype=np.int64)[order]
        self.times = self._seconds(self._shown)
        if not self._found.sound:
            self._count()

    def show(self, choose: Callable[[Times], Frames], use: Callable[[int, Pixels], None]) -> Frames:
        """Decode some frames and hand each over once, in decoding order.

        Where packets and frames do not agree (damage, odd containers), everything is decoded and what comes
        out counts as the frames; then `choose` and `use` are called anew.

        Args:
            choose: `times` -> numbers of the wanted frames, [n] int64, in any order and number.
            use: takes a number and the pixels, [H, W, 3] uint8, upright; they may go away afterwards.

        Returns:
            The numbers, as `choose` gave them.

        Raises:
            MediumError: nothing can be decoded.
        """
        chosen = choose(self.times)
        if self._found.sound:
            try:
                self._hand_over(chosen, self._needed(chosen), use)
                return chosen
            except _UnsoundError:
                self._found.sound = False
                self._count()
                chosen = choose(self.times)
        self._hand_over(chosen, enumerate(self._everything()), use)
        return chosen

    def _hand_over(
        self,
        chosen: Frames,
        frames: "Iterator[tuple[int, VideoFrame]]",
        use: Callable[[int, Pixels], None],
    ) -> None:
        from av.video.reformatter import VideoReformatter

        wanted, converter = set(chosen.tolist()), VideoReformatter()
        for number, frame in frames:
            if number in wanted:
                wanted.discard(number)
                use(number, _pixels(frame, converter))
                if not wanted:
                    return
        raise _UnsoundError

    def _needed(self, chosen: Frames) -> "Iterator[tuple[int, VideoFrame]]":
        """Yield the chosen frames, and possibly others that had to be decoded, each with its number."""
        numbers = np.unique(chosen)
        by_time = dict(zip(self._shown[numbers].tolist(), numbers.tolist(), strict=True))
        indices = set(self._at[numbers].tolist())
        ranges = self._ranges(numbers)
        spare = self._found.spare - indices
        codec, packets = self._stream.codec_context, self._found.packets
        if packets is not None:
            for first, last in ranges:
                for frame in _decoded(codec, (packets[i] for i in range(first, last + 1) if i not in spare)):
                    if frame.pts in by_time:
                        yield by_time[frame.pts], frame
            return
        with open_video(self._source, quick=True) as container:
            stream = first_video(container)
            everything = enumerate(_filled_packets(container, stream))
            for first, last in ranges:
                some = (p for i, p in _up_to(everything, last) if i >= first and i not in spare)
                for frame in _decoded(stream.codec_context, some):
                    if frame.pts in by_time:
                        yield by_time[frame.pts], frame

    def _ranges(self, numbers: Frames) -> list[tuple[int, int]]:
        """Return first and last packets of the runs that have to be decoded for some frames."""
        found: list[tuple[int, int]] = []
        keys, key_times = self._found.keys, self._found.key_times
        for index, time in sorted(
            zip(self._at[numbers].tolist(), self._shown[numbers].tolist(), strict=True)
        ):
            # Pictures that are shown before a key frame but stored behind it may need what lies before it.
            place = bisect_right(keys, index) - 1
            while place > 0 and key_times[place] > time:
                place -= 1
            start = keys[place]
            while found and start <= found[-1][1] + 1:
                start = min(start, found.pop()[0])
            found.append((start, index))
        return found

    def _count(self) -> None:
        """Learn the times of the frames by decoding them."""
        rate = self._stream.average_rate or self._stream.guessed_rate
        length = 1 / float(rate) if rate else 0.04
        stamps = [frame.pts for frame in self._everything()]
        if not stamps:
            raise MediumError("unreadable video", "no frame can be decoded")
        known = [stamp for stamp in stamps if stamp is not None]
        if len(known) == len(stamps) and all(a < b for a, b in pairwise(known)):
            self.times = self._seconds(np.array(known, dtype=np.int64))
        else:
            self.times = np.arange(len(stamps), dtype=np.float64) * length

    def _seconds(self, stamps: Frames) -> Times:
        return np.asarray(stamps * self._base - self._zero, dtype=np.float64)

    def _everything(self) -> "Iterator[VideoFrame]":
        """Yield all frames that can be decoded."""
        with open_video(self._source) as container:
            stream = first_video(container)
            yield from _decoded(stream.codec_context, _filled_packets(container, stream), forgiving=True)


@contextmanager
def open_frames(source: bytes | Path) -> Iterator[VideoFrames]:
    """Open a video, given as its content or its file.

    Raises:
        MediumError: `unreadable video`, `truncated video`, `no video stream` or `video too large`.
    """
    with open_video(source, quick=True) as container:
        yield VideoFrames(source, container)


def _filled_packets(container: "InputContainer", stream: Any) -> "Iterator[Packet[Any]]":
    return (packet for packet in container.demux(stream) if packet.size)


def _up_to(numbered: "Iterator[tuple[int, Packet[Any]]]", last: int) -> "Iterator[tuple[int, Packet[Any]]]":
    for index, packet in numbered:
        yield index, packet
        if index >= last:
            return


def _decoded(
    codec: "CodecContext", packets: "Iterator[Packet[Any]]", *, forgiving: bool = False
) -> "Iterator[VideoFrame]":
    """Yield the frames of packets; afterwards the decoder can start anew."""
    import av

    decode: Any = codec.decode  # type: ignore[attr-defined]
    try:
        for packet in packets:
            try:
                yield from decode(packet)
            except av.InvalidDataError:
                if not forgiving:
                    raise _UnsoundError from None
        yield from decode(None)
    finally:
        codec.flush_buffers()


def _survey(container: "InputContainer", stream: Any) -> _Survey:
    """Read all packets of a stream once."""
    found, size = _Survey(), 0
    # AVI numbers frames as they are stored, which is not how they are shown where some lie behind later ones.
    numbered = container.format.name == "avi" and bool(stream.codec_context.has_b_frames)
    ascending = True
    codec = stream.codec_context.name
    h264, vp8 = codec == "h264", codec == "vp8"
    extra = bytes(stream.codec_context.extradata or b"")
    prefix = (extra[4] & 3) + 1 if h264 and len(extra) > 4 and extra[0] == 1 else 0
    for index, packet in enumerate(_filled_packets(container, stream)):
        time, key = packet.pts, packet.is_keyframe
        if time is None:
            found.sound = False
            break
        if h264:
            whole, spare = _h264_roles(memoryview(packet), prefix)
            # Decoding can start at a first packet that calls itself a key frame, if at nothing else.
            key = whole or (key and not index)
            if spare:
                found.spare.add(index)
        if key:
            found.keys.append(index)
            found.key_times.append(time)
        ascending = ascending and (not found.times or time > found.times[-1])
        if not packet.is_discard and not (vp8 and not memoryview(packet)[0] & _VISIBLE):
            found.times.append(time)
            found.at.append(index)
        size += packet.size
        if found.packets is not None:
            found.packets.append(packet)
            if size > KEPT_PACKETS:
                found.packets = None
    found.sound = (
        found.sound
        and not (numbered and ascending)
        and bool(found.times)
        and found.keys[:1] == [0]
        and len(set(found.times)) == len(found.times)
    )
    return found


def _h264_roles(data: "memoryview", prefix: int) -> tuple[bool, bool]:
    """Tell of a stored picture whether decoding can start at it, and whether no other refers to it.

    All parts of a picture agree about that, but for the two fields of a frame: so a picture is spare only if
    every part is.

    Args:
        data: its units.
        prefix: bytes of the length before each unit; 0: start codes part them.
    """
    spare = False
    for head in _after_lengths(data, prefix) if prefix else _after_codes(bytes(data)):
        kind = head & 31
        if kind in _SLICES:
            if head >> 5 & 3:
                return kind == _WHOLE, False
            spare = True
    return False, spare


def _after_lengths(data: "memoryview", prefix: int) -> Iterator[int]:
    """Yield the first byte of each unit."""
    at, end = 0, len(data)
    while at + prefix < end:
        yield data[at + prefix]
        at += prefix + int.from_bytes(data[at : at + prefix], "big")


def _after_codes(data: bytes) -> Iterator[int]:
    at = data.find(_START_CODE)
    while 0 <= at < len(data) - 3:
        yield data[at + 3]
        at = data.find(_START_CODE, at + 3)


def _pixels(frame: "VideoFrame", converter: "VideoReformatter") -> Pixels:
    """Return [H, W, 3], upright, as `VideoFrame.to_image` converts it."""
    converted = converter.reformat(frame, format="rgb24", threads=1)
    plane, row = converted.planes[0], 3 * converted.width
    lines = np.frombuffer(memoryview(plane), dtype=np.uint8).reshape(-1, plane.line_size)[
        : converted.height, :row
    ]
    found: Pixels = lines.reshape(converted.height, converted.width, 3)
    quarters = turned(frame) // 90
    return np.ascontiguousarray(np.rot90(found, -quarters)) if quarters else found
