"""Retention of the sources in a simulated run: behind the checkpoints, as it should be, or past what was read."""

from __future__ import annotations

from streamproc.ports import TopicPartition
from streamproc.runtime.restore import stands_on
from streamproc.runtime.task import Task
from streamproc.testing.simulation.log import SimulatedLog
from streamproc.testing.simulation.scene import Scene


def trim_sources(scene: Scene, *, lost: bool) -> None:
    """Takes records of the sources: anything, also what nobody has read, or only what no kept checkpoint needs.

    A source that some task has not begun to read is left alone: that task would begin where the source begins.
    """
    if scene.cluster.dark:
        return  # A broker that does not answer deletes nothing.
    for place in scene.case.sources:
        partition = scene.cluster.partitions[place]
        needed = [_needed_from(scene, number, place) for number in range(scene.case.binding.task_count)]
        reach = [offset for offset in needed if offset is not None]
        if lost and min(reach, default=-1) >= 0:
            scene.input_lost = True
            partition.delete(scene.dice.randrange(partition.start, partition.stable + 1))
        elif not lost and min(reach, default=-1) > partition.start:
            scene.trimmed = True
            # Two sides stand against one damage; where there were more, perhaps no checkpoint is left to go on from.
            scene.input_lost = scene.input_lost or scene.store.spoiled + scene.store.damaged > 1
            partition.delete(min(reach))


def _needed_from(scene: Scene, number: int, place: TopicPartition) -> int | None:
    """The first offset of a source that a task's restore from its older kept checkpoint reads.

    -1 for a task that has not begun, None for one that does not read the source.
    """
    binding = scene.case.binding
    stage, index = binding.task_of(number)
    if place not in [channel.place for channel in stage.channels(index, binding.partitions)]:
        return None
    journal = TopicPartition(binding.names.tasks, number)
    log = SimulatedLog(scene.cluster)
    if not scene.cluster.partitions[journal].has_record(0):
        return -1
    name = Task(binding, number, log).name
    mine = sorted((m for (task, _), m in scene.store.published.items() if task == name), key=lambda m: -m.step)
    sound = [manifest for manifest in mine if stands_on(log, journal, manifest)]
    if len(sound) < 2:
        return 0
    positions = sound[1].head["positions"]
    assert isinstance(positions, list)
    return min(int(offset) for topic, partition, offset in positions if TopicPartition(topic, partition) == place)
