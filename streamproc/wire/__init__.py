"""The wire codec: Avro payloads to columns and back, a whole batch at a time."""

from streamproc.wire.decoder import Decoded, Decoder
from streamproc.wire.encoder import Encoded, Encoder
from streamproc.wire.framing import HEADER_SIZE, Reader, split_frames
from streamproc.wire.opcodes import REASONS

__all__ = ["HEADER_SIZE", "REASONS", "Decoded", "Decoder", "Encoded", "Encoder", "Reader", "split_frames"]
