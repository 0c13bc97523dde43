"""TensorBoard event files, written synchronously with tensorboard's own protocol buffers.

`torch.utils.tensorboard` would import torch here, and its writer thread would lose the error of a full disk.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from distrl.monitor.lines import Report, Sink, write_all

_PREFIX = "events.out.tfevents."


class TensorBoard(Sink):
    """One event file of one attempt.

    Points of earlier attempts beyond `resume_env_steps` are void; TensorBoard drops them when it meets the start mark
    that this file begins with.
    """

    def __init__(self, folder: Path, attempt: int, report: Report, resume_env_steps: int | None = None):
        super().__init__("TensorBoard", report)
        # Records wait in memory for the flush. Python's buffered files refuse a write from a signal handler that
        # interrupts another one, and an event about the signal is just that.
        self._waiting = bytearray()
        self._handle = -1
        self.attempt(lambda: self._open(folder, attempt), again=False)
        self._write(Event(file_version="brain.Event:2"))
        # TensorBoard forgets what has step >= that of the start mark; the resume point itself stays.
        if resume_env_steps is not None:
            self._write(Event(step=resume_env_steps + 1, session_log=SessionLog(status=SessionLog.START)))
        self.flush()

    def scalars(self, values: Mapping[str, float], env_steps: int) -> None:
        """Write one point per tag at the same x."""
        entries = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write(Event(step=env_steps, summary=Summary(value=entries)))

    def text(self, tag: str, markdown: str, env_steps: int) -> None:
        """Write a Markdown text."""
        plugin = SummaryMetadata.PluginData(plugin_name="text")
        value = Summary.Value(
            tag=tag,
            metadata=SummaryMetadata(plugin_data=plugin, data_class=DATA_CLASS_TENSOR),
            tensor=TensorProto(
                dtype=DT_STRING,
                string_val=[markdown.encode()],
                tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]),
            ),
        )
        self._write(Event(step=env_steps, summary=Summary(value=[value])))

    def hparams(self, config: Mapping[str, object], results: Mapping[str, float], name: str) -> None:
        """Write the row of this run in the HPARAMS tab.

        `results` are final metrics, already written as scalars under the same tags.
        """
        start = plugin_data_pb2.SessionStartInfo(group_name=name, start_time_secs=time.time())
        experiment = api_pb2.Experiment(time_created_secs=time.time())
        for key, value in config.items():
            _set_value(start.hparams[key], value)
            experiment.hparam_infos.add(name=key, type=_data_type(value))
        for tag in results:
            experiment.metric_infos.add(name=api_pb2.MetricName(tag=tag))
        end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time())
        data = plugin_data_pb2.HParamsPluginData
        entries = [
            _hparams_entry(metadata.EXPERIMENT_TAG, data(experiment=experiment)),
            _hparams_entry(metadata.SESSION_START_INFO_TAG, data(session_start_info=start)),
            _hparams_entry(metadata.SESSION_END_INFO_TAG, data(session_end_info=end)),
        ]
        self._write(Event(summary=Summary(value=entries)))

    def flush(self) -> None:
        """Hand everything to the operating system."""
        data, self._waiting = self._waiting, bytearray()
        self.attempt(lambda: write_all(self._handle, bytes(data)))

    def close(self) -> None:
        """Flush and close; a second call does nothing."""
        self.flush()
        self.alive = False
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _open(self, folder: Path, attempt: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads files in the order of their names, so a later attempt needs a later stamp even where
        # the clock of another machine is behind.
        stamps = [int(file.name.removeprefix(_PREFIX)[:10]) for file in folder.glob(_PREFIX + "[0-9]*")]
        stamp = max([int(time.time()), *(taken + 1 for taken in stamps)])
        path = folder / f"{_PREFIX}{stamp:010d}.{socket.gethostname()}.{os.getpid()}.{attempt}"
        self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)

    def _write(self, event: Event) -> None:
        if self.alive:
            event.wall_time = time.time()
            RecordWriter(_Appender(self._waiting)).write(event.SerializeToString())


class _Appender:
    """The one method that a `RecordWriter` needs of a file."""

    def __init__(self, data: bytearray):
        self.write = data.extend


def _hparams_entry(tag: str, data: plugin_data_pb2.HParamsPluginData) -> Summary.Value:
    return Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)


def _data_type(value: object) -> int:
    if isinstance(value, bool):
        return api_pb2.DATA_TYPE_BOOL
    return api_pb2.DATA_TYPE_FLOAT64 if isinstance(value, int | float) else api_pb2.DATA_TYPE_STRING


def _set_value(slot: object, value: object) -> None:
    field = {api_pb2.DATA_TYPE_BOOL: "bool_value", api_pb2.DATA_TYPE_FLOAT64: "number_value"}.get(_data_type(value))
    setattr(slot, field or "string_value", value if field else str(value))
