"""Tell TensorBoard about a job whose process was killed before it could do so itself."""

import time
from pathlib import Path


def mark_failed(run_dir: Path) -> None:
    """Give a run the status of a failed one in the HPARAMS tab, if it has written events.

    If the run resumes, its logger removes the file again.
    """
    if not any(run_dir.glob("events.out.tfevents.*")):
        return
    # Imported here: they take a second, and few jobs are killed.
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    end = HParamsPluginData(session_end_info=SessionEndInfo(status=STATUS_FAILURE, end_time_secs=time.time()))
    value = Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=metadata.create_summary_metadata(end))
    writer = EventFileWriter(str(run_dir))
    writer.add_event(Event(wall_time=time.time(), summary=Summary(value=[value])))
    writer.close()
