"""The conversion as an Apache Beam transform, for more machines than one: `glamm-jax[beam]`.

    reading = Reading(make_source, root, "train")
    target = reading.target(out)
    target.begin(reading.job())
    with beam.Pipeline(options=options) as pipeline:
        pipeline | WriteShards(reading, target)
    target.publish(target.add_up(len(reading.keys)))

A shard is one element: `write_shard`, the function that the processes of one machine run. So the
files are the same, a shard that is tried twice is written twice under names of its own and renamed,
and what one runner began another can go on with. All workers see `root` and `out` as folders.
"""

from __future__ import annotations

from typing import Any

import apache_beam as beam  # pyright: ignore[reportMissingImports]  # an extra

from glamm_jax.data.conversion import SourceReader, write_shard
from glamm_jax.data.split_folder import ShardReport, SplitFolder


class WriteShards(beam.PTransform):
    """Write every shard of a split; gives a `ShardReport` for each.

    Raises: when it runs, what `write_shard` raises.
    """

    def __init__(self, reading: SourceReader, target: SplitFolder):
        super().__init__()
        self._reading, self._target = reading, target

    def expand(self, input_or_inputs: Any) -> Any:
        """The transform, from the beginning of a pipeline."""
        indices = input_or_inputs | beam.Create(range(self._target.num_shards))
        return indices | beam.Reshuffle() | beam.Map(self._write)

    def _write(self, index: int) -> ShardReport:
        return write_shard(self._reading, self._target, index)
