"""The status of a killed job in TensorBoard's event files."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE

from blitz.sweep.dashboard import mark_failed


def test_killed_run_is_marked_as_failed(tmp_path):
    (tmp_path / "events.out.tfevents.1.host.1.0").touch()
    mark_failed(tmp_path)
    events = EventAccumulator(str(tmp_path)).Reload()
    content = events.SummaryMetadata(metadata.SESSION_END_INFO_TAG).plugin_data.content
    assert metadata.parse_session_end_info_plugin_data(content).status == STATUS_FAILURE


def test_run_without_events_gets_none(tmp_path):
    mark_failed(tmp_path)
    assert not list(tmp_path.iterdir())
