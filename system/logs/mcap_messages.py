"""MCAP files: their summary, the times of their messages, and single messages by topic and log time.

Of a chunked file only the chunks that hold something wanted are read and unpacked, each checked against its stated size
and checksum. A file without a summary (a recording that broke off) is refused, as its parts cannot be known.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

import lz4.frame
import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.reader import NonSeekingReader, SeekingReader
from mcap.records import Chunk, ChunkIndex, MessageIndex
from mcap.summary import Summary

from system.errors import DataError
from system.logs import files, mcap_schema
from system.logs.decoding import PictureLimits
from system.records import Frame

# Writers make chunks of about 1 to 16 MiB; one of so many is a fault or an attack.
MAX_CHUNK_BYTES = 1 << 30
MAX_MESSAGES = 100_000_000
_OPCODE_MESSAGE = 0x05
_RECORD, _MESSAGE = struct.Struct("<BQ"), struct.Struct("<HIQQ")
_DAMAGED = (
    McapError,
    zstandard.ZstdError,
    struct.error,
    zlib.error,
    RuntimeError,  # lz4
    ValueError,
    LookupError,
    TypeError,
    EOFError,
    OverflowError,
    MemoryError,
    OSError,
)


@dataclass(frozen=True)
class Message:
    """A message as it lies in the file. Two of a channel may share a log time."""

    channel_id: int
    log_time_ns: int
    data: bytes


class McapFile:
    """An open MCAP file with a summary."""

    def __init__(self, uri: str, stream: IO[Any], summary: Summary) -> None:
        self.uri, self.summary, self._stream = uri, summary, stream

    def topic(self, channel_id: int) -> str:
        return self.summary.channels[channel_id].topic

    def times_ns(self, channel_ids: set[int]) -> dict[int, list[int]]:
        """Log times of all messages of some channels, sorted, from the index alone where there is one."""
        times: dict[int, list[int]] = {channel_id: [] for channel_id in channel_ids}
        for chunk in self.summary.chunk_indexes:
            for channel_id in channel_ids & chunk.message_index_offsets.keys():
                self._stream.seek(chunk.message_index_offsets[channel_id] + _RECORD.size)
                times[channel_id] += [t_ns for t_ns, _ in MessageIndex.read(ReadDataStream(self._stream)).records]
            if not chunk.message_index_offsets:
                for message in self._unpack(chunk):
                    if message.channel_id in channel_ids:
                        times[message.channel_id].append(message.log_time_ns)
        if not self.summary.chunk_indexes:
            for message in self._all_messages():
                if message.channel_id in channel_ids:
                    times[message.channel_id].append(message.log_time_ns)
        return {channel_id: sorted(found) for channel_id, found in times.items()}

    def batches(
        self, is_wanted: Callable[[int], bool], spans_ns: Sequence[int] | None = None
    ) -> Iterator[list[Message] | DataError]:
        """Messages chunk by chunk, in the file's order; a chunk that is damaged or kept back as what is wrong with it.

        Args:
            is_wanted: by channel; asked anew for each chunk.
            spans_ns: if given, only chunks that may hold a message of one of these times are unpacked.
        """
        for chunk in self.summary.chunk_indexes:
            begin, end = chunk.message_start_time, chunk.message_end_time
            if spans_ns is not None and not any(begin <= t_ns <= end for t_ns in spans_ns):
                continue
            if chunk.message_index_offsets and not any(map(is_wanted, chunk.message_index_offsets)):
                continue
            try:
                yield [message for message in self._unpack(chunk) if is_wanted(message.channel_id)]
            except _DAMAGED as error:
                place = f"{self.uri} chunk at byte {chunk.chunk_start_offset}"
                yield DataError("damaged_mcap", f"{place}: {type(error).__name__}: {error}")
            except DataError as error:
                files.told(self._stream)
                yield error
        if not self.summary.chunk_indexes:
            yield [message for message in self._all_messages() if is_wanted(message.channel_id)]

    def _unpack(self, index: ChunkIndex) -> Iterator[Message]:
        if max(index.compressed_size, index.uncompressed_size) > MAX_CHUNK_BYTES:
            raise ValueError(f"{index.uncompressed_size} bytes, expected at most {MAX_CHUNK_BYTES}")
        self._stream.seek(index.chunk_start_offset)
        # One read, never of more than the index states; of a record that ends too early, the size does not fit below.
        record = self._stream.read(min(index.chunk_length, MAX_CHUNK_BYTES + (1 << 16)))
        chunk = Chunk.read(ReadDataStream(io.BytesIO(record[_RECORD.size :])))
        data = _uncompressed(chunk)
        if chunk.uncompressed_crc and zlib.crc32(data) != chunk.uncompressed_crc:
            raise ValueError("checksum does not fit")
        position = 0
        while position + _RECORD.size <= len(data):
            opcode, length = _RECORD.unpack_from(data, position)
            position += _RECORD.size
            if position + length > len(data):
                raise ValueError(f"record of {length} bytes at {position} of {len(data)}")
            if opcode == _OPCODE_MESSAGE:
                channel_id, _, log_time_ns, _ = _MESSAGE.unpack_from(data, position)
                yield Message(channel_id, log_time_ns, data[position + _MESSAGE.size : position + length])
            position += length

    def _all_messages(self) -> Iterator[Message]:
        self._stream.seek(0)
        reader = NonSeekingReader(self._stream, record_size_limit=MAX_CHUNK_BYTES)
        for count, (_, channel, message) in enumerate(reader.iter_messages(log_time_order=False)):
            if count > MAX_MESSAGES:
                raise DataError("too_large", f"{self.uri}: expected at most {MAX_MESSAGES} messages")
            yield Message(channel.id, message.log_time, message.data)


@contextmanager
def open_mcap(uri: str) -> Iterator[McapFile]:
    """An MCAP file; only its summary is read.

    Raises:
        DataError: `missing_file`, `damaged_mcap` (also for what is found while the file is open), `no_summary`.
    """
    with files.open_binary(uri) as stream:
        try:
            summary = SeekingReader(stream, record_size_limit=MAX_CHUNK_BYTES).get_summary()
            if summary is None or summary.statistics is None:
                advice = "the recording broke off? `mcap recover` writes one"
                raise DataError("no_summary", f"{uri}: expected a summary with statistics, found none; {advice}")
            yield McapFile(uri, stream, summary)
        except _DAMAGED as error:
            raise DataError("damaged_mcap", f"{uri}: expected an MCAP file: {type(error).__name__}: {error}") from error


def read_pictures(frames: Sequence[Frame], limits: PictureLimits) -> list[bytes | DataError]:
    """Image files out of one MCAP, not yet decoded.

    Args:
        frames: pictures that share one uri; locators "topic@log_time_ns".
    Returns:
        For each frame, in order, its bytes or what is wrong: bad_locator, missing_message, damaged_message,
        damaged_mcap, unreadable_file, unsupported_encoding, too_large.
    Raises:
        DataError: the file as a whole cannot be read.
    """
    keys = [_key(frame) for frame in frames]
    wanted = {key for key in keys if not isinstance(key, DataError)}
    found: dict[tuple[str, int], bytes | DataError] = {}
    damage: DataError | None = None
    with open_mcap(frames[0].uri) as file:
        topics = {topic for topic, _ in wanted}
        readers = {
            channel_id: _picture_reader(file, channel_id, limits.max_file_bytes)
            for channel_id, channel in file.summary.channels.items()
            if channel.topic in topics
        }
        for batch in file.batches(readers.__contains__, sorted(t_ns for _, t_ns in wanted)):
            if isinstance(batch, DataError):
                damage = batch
                continue
            for message in batch:
                place = (file.topic(message.channel_id), message.log_time_ns)
                if place in wanted and place not in found:
                    found[place] = readers[message.channel_id](message.data)
    answers: list[bytes | DataError] = []
    for key, frame in zip(keys, frames, strict=True):
        if isinstance(key, DataError):
            answers.append(key)
        elif key in found:
            answers.append(found[key])
        else:
            lost = f"{frame.uri}#{frame.locator}: expected a picture, found no message of this topic and log time"
            answers.append(damage or DataError("missing_message", lost))
    return answers


def _key(frame: Frame) -> tuple[str, int] | DataError:
    topic, _, t_ns = frame.locator.rpartition("@")
    if not topic or not t_ns.isdecimal():
        return DataError("bad_locator", f"{frame.uri}: expected topic@log_time_ns, found {frame.locator!r}")
    return topic, int(t_ns)


def _picture_reader(file: McapFile, channel_id: int, max_bytes: int) -> Callable[[bytes], bytes | DataError]:
    """What makes an image file of a channel's message."""
    channel = file.summary.channels[channel_id]
    schema = file.summary.schemas.get(channel.schema_id)
    where = f"{file.uri} topic {channel.topic}"
    role = mcap_schema.role_of(schema)
    decode = mcap_schema.decoder_for(channel, schema) if schema is not None else None
    takes = {"picture": mcap_schema.picture_bytes, "raw_picture": mcap_schema.raw_picture_bytes}.get(role or "")
    if decode is None or takes is None:
        fault = DataError("unsupported_encoding", f"{where}: expected pictures, found {channel.message_encoding}")
        return lambda _: fault

    def read(data: bytes) -> bytes | DataError:
        try:
            return mcap_schema.understood(partial(takes, max_bytes=max_bytes), decode, data, where)
        except DataError as error:
            return error

    return read


def _uncompressed(chunk: Chunk) -> bytes:
    """A chunk's records; never more bytes than it states."""
    if chunk.uncompressed_size > MAX_CHUNK_BYTES:
        raise ValueError(f"{chunk.uncompressed_size} bytes, expected at most {MAX_CHUNK_BYTES}")
    if chunk.compression == "zstd":
        unpacker = zstandard.ZstdDecompressor().stream_reader(chunk.data)
        data = unpacker.read(chunk.uncompressed_size + 1)
    elif chunk.compression == "lz4":
        data = lz4.frame.LZ4FrameDecompressor().decompress(chunk.data, max_length=chunk.uncompressed_size + 1)
    elif chunk.compression == "":
        data = chunk.data
    else:
        raise ValueError(f"compression {chunk.compression!r}, expected zstd, lz4 or none")
    if len(data) != chunk.uncompressed_size:
        raise ValueError(f"{len(data)} bytes or more unpacked, expected {chunk.uncompressed_size}")
    return data
