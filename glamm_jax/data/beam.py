"""Conversion of a dataset with Apache Beam, for several machines: `glamm-jax[beam]`.

    reader = SourceReader(make_source, root, "train")
    target = reader.target(out)
    target.begin(reader.description())
    with beam.Pipeline(options=options) as pipeline:
        pipeline | WriteShards(reader, target)
    target.publish(target.summarize(len(reader.keys)))

An element of the pipeline is a shard, and it is written by `write_shard`, the function that the
processes of one machine run. So the files are the same. A shard that Beam tries twice is written
under two temporary names. A conversion that one runner began can be resumed with another. All
workers need `root` and `out` as folders.
"""

from __future__ import annotations

from typing import Any

import apache_beam as beam  # pyright: ignore[reportMissingImports]  # an extra

from glamm_jax.data.conversion import SourceReader, write_shard
from glamm_jax.data.split_folder import ShardReport, SplitFolder


class WriteShards(beam.PTransform):
    """Writes every shard of a split; its output is the `ShardReport` of each.

    When it runs, it raises what `write_shard` raises.
    """

    def __init__(self, reader: SourceReader, target: SplitFolder):
        super().__init__()
        self._reader, self._target = reader, target

    def expand(self, input_or_inputs: Any) -> Any:
        """Apply the transform to the start of a pipeline."""
        indices = input_or_inputs | beam.Create(range(self._target.num_shards))
        return indices | beam.Reshuffle() | beam.Map(self._write)

    def _write(self, index: int) -> ShardReport:
        return write_shard(self._reader, self._target, index)
