from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetSchemaRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetSchemaResponse(_message.Message):
    __slots__ = ("format", "depth", "max_wait_s", "classes", "tiers", "depths", "model_version", "trackers", "max_batch_packets", "max_body_bytes", "header", "columns")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    MAX_WAIT_S_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    TIERS_FIELD_NUMBER: _ClassVar[int]
    DEPTHS_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    TRACKERS_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_PACKETS_FIELD_NUMBER: _ClassVar[int]
    MAX_BODY_BYTES_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    format: str
    depth: int
    max_wait_s: float
    classes: _containers.RepeatedScalarFieldContainer[str]
    tiers: _containers.RepeatedScalarFieldContainer[str]
    depths: _containers.RepeatedScalarFieldContainer[int]
    model_version: str
    trackers: int
    max_batch_packets: int
    max_body_bytes: int
    header: bool
    columns: _containers.RepeatedCompositeFieldContainer[Column]
    def __init__(self, format: _Optional[str] = ..., depth: _Optional[int] = ..., max_wait_s: _Optional[float] = ..., classes: _Optional[_Iterable[str]] = ..., tiers: _Optional[_Iterable[str]] = ..., depths: _Optional[_Iterable[int]] = ..., model_version: _Optional[str] = ..., trackers: _Optional[int] = ..., max_batch_packets: _Optional[int] = ..., max_body_bytes: _Optional[int] = ..., header: _Optional[bool] = ..., columns: _Optional[_Iterable[_Union[Column, _Mapping]]] = ...) -> None: ...

class Column(_message.Message):
    __slots__ = ("name", "type")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: str
    def __init__(self, name: _Optional[str] = ..., type: _Optional[str] = ...) -> None: ...

class ClassifyBatchRequest(_message.Message):
    __slots__ = ("packets",)
    PACKETS_FIELD_NUMBER: _ClassVar[int]
    packets: bytes
    def __init__(self, packets: _Optional[bytes] = ...) -> None: ...

class ClassifyBatchResponse(_message.Message):
    __slots__ = ("verdicts",)
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    verdicts: bytes
    def __init__(self, verdicts: _Optional[bytes] = ...) -> None: ...

class ClassifyBatchInPartsRequest(_message.Message):
    __slots__ = ("packets",)
    PACKETS_FIELD_NUMBER: _ClassVar[int]
    packets: bytes
    def __init__(self, packets: _Optional[bytes] = ...) -> None: ...

class ClassifyBatchInPartsResponse(_message.Message):
    __slots__ = ("verdicts",)
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    verdicts: bytes
    def __init__(self, verdicts: _Optional[bytes] = ...) -> None: ...

class StreamVerdictsRequest(_message.Message):
    __slots__ = ("collector", "labels", "only_final")
    COLLECTOR_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ONLY_FINAL_FIELD_NUMBER: _ClassVar[int]
    collector: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    only_final: bool
    def __init__(self, collector: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., only_final: _Optional[bool] = ...) -> None: ...

class StreamVerdictsResponse(_message.Message):
    __slots__ = ("verdicts", "collector", "dropped_batches", "dropped_verdicts")
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    COLLECTOR_FIELD_NUMBER: _ClassVar[int]
    DROPPED_BATCHES_FIELD_NUMBER: _ClassVar[int]
    DROPPED_VERDICTS_FIELD_NUMBER: _ClassVar[int]
    verdicts: bytes
    collector: str
    dropped_batches: int
    dropped_verdicts: int
    def __init__(self, verdicts: _Optional[bytes] = ..., collector: _Optional[str] = ..., dropped_batches: _Optional[int] = ..., dropped_verdicts: _Optional[int] = ...) -> None: ...
