"""A trace driven through a real vLLM, every step of which is written down.

requests that are due, and whose blocks earlier ones have written --> engine --> one step
     ^                                                                            |
     +---- requests that are over <--- steps, blocks, KV events <-----------------+
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import kv_cache_vllm.engine as vllm_engine
from kv_cache_rl.experiments.engine.folder import Config, Recorded, Step, held, note, read_run
from kv_cache_rl.experiments.engine.plan import Asked, EngineError, Plan, text_of
from kv_cache_rl.experiments.engine.writer import Writer
from kv_cache_vllm.model import length_of, vocabulary_of, write_tiny

Told = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Pace:
    """When requests are handed over."""

    at: str
    """trace: at their times; step: before the step of their time; once: all at once."""
    rate: float
    """Seconds of the trace in a second, or steps in a second of the trace."""


def version(tiny: bool = True) -> str:
    """Name and version of the engine; `tiny`: it is to compute next to nothing."""
    if tiny:
        vllm_engine.one_thread()
    import vllm

    return f"vllm {vllm.__version__}"


def record(
    plan: Plan,
    config: Config,
    folder: Path,
    pace: Pace,
    model: Path | None = None,
    resume: bool = False,
    told: Told = lambda done, total: None,
    **more: Any,
) -> Sequence[Recorded]:
    """The requests of a plan, answered by an engine and written to a folder.

    Args:
        model: folder of a model with weights; None: a tiny one without.
        resume: whether what the folder holds is gone on with.
        told: called with requests that are over, and all.
        more: further arguments of vLLM's engine.

    Raises:
        EngineError: the engine refuses its settings, or the folder cannot be written or gone on with.
    """
    with TemporaryDirectory() as scratch, Writer(folder, config, resume) as out:
        at = model or write_tiny(Path(scratch) / "model", plan.longest.total + plan.block_tokens)
        _check_length(plan, at)
        settings = vllm_engine.Settings(
            at,
            model is None,
            config.blocks,
            config.block_tokens,
            config.max_num_seqs,
            config.token_budget,
            plan.longest.total,
            _rules(config) | more,
        )
        done = {one.request for one in out.finished}
        if len(done) == len(plan.requests):
            return out.finished
        run = _Run(plan, config, vllm_engine.started(settings), vocabulary_of(at), pace)
        try:
            if done:
                run.refill(out.finished, _held_in(folder))
            run.play([one for one in plan.requests if one.number not in done], out, told)
        finally:
            run.close()
        return (*out.finished, *run.finished)


def _rules(config: Config) -> dict[str, Any]:
    """A recording's rules as vLLM's engine names them."""
    return {
        "enable_prefix_caching": config.prefix_caching,
        "long_prefill_token_threshold": config.long_prefill,
        "watermark": config.watermark,
    }


def _held_in(folder: Path) -> set[int]:
    """The blocks that the engine of a recording held at its end."""
    copies: Counter[int] = Counter()
    for _, events in read_run(folder).events():
        for event in events:
            note(event, copies)
    return held(copies)


def _check_length(plan: Plan, model: Path) -> None:
    most = length_of(model)
    longer = [one for one in plan.requests if most is not None and one.total > most]
    if longer:
        raise EngineError(
            f"{len(longer):,} of {len(plan.requests):,} requests are longer than the {most:,} tokens that "
            f"{model} reads, the first ({longer[0].number}) has {longer[0].total:,}; give a model that reads "
            "more, a smaller --engine-block-size, or fewer --requests"
        )


class _Run:
    """An engine that answers the requests of a plan."""

    def __init__(self, plan: Plan, config: Config, engine: Any, vocabulary: int, pace: Pace) -> None:
        from kv_cache_vllm.watch import Watch

        self._plan, self._config, self._engine, self._pace = plan, config, engine, pace
        self._vocabulary = vocabulary
        self._scheduler = vllm_engine.scheduler_of(engine)
        self._watch = Watch(self._scheduler)
        self._began = time.monotonic()
        self._step = 0
        self._times: dict[int, list[float]] = {}
        self._steps: dict[int, int] = {}
        self.finished: list[Recorded] = []

    def close(self) -> None:
        """The engine has let its memory go."""
        self._engine.engine_core.shutdown()

    def _now(self) -> float:
        return round(time.monotonic() - self._began, 4)

    def _hand_over(self, one: Asked) -> None:
        from kv_cache_vllm.answers import answering

        text = text_of(one, self._plan, self._vocabulary, self._config.seed)
        self._watch.expect(one)
        self._times[one.number] = [self._now()]
        prompt = {"prompt_token_ids": text[: one.prompt]}
        self._engine.add_request(str(one.number), prompt, answering(text[one.prompt :]))

    def refill(self, before: Sequence[Recorded], there: set[int]) -> None:
        """Asks again what decides the cache's content, and checks that it is as it was.

        One at a time, and in the order of last use, the cache holds the blocks used last, so requests from
        the latest one on back to a pool's worth of different blocks are enough.

        Raises:
            EngineError: requests ran beside each other, or the policy is another, so it cannot be exact; or
                the cache does not hold the blocks that are to be `there`.
        """
        if not self._config.one_at_a_time or self._config.policy != "lru":
            raise EngineError(
                "only a recording one at a time under vLLM's own order can be gone on with exactly; record "
                "again into another folder"
            )
        known: set[int] = set()
        start = len(before)
        while start and len(known) < self._config.blocks:
            start -= 1
            one = self._plan.requests[start]
            known.update(one.blocks[: (one.total - 1) // self._plan.block_tokens])
        copies: Counter[int] = Counter()
        for one in self._plan.requests[start : len(before)]:
            self._hand_over(one)
            while self._engine.has_unfinished_requests():
                self._engine.step()
            for event in self._watch.taken()[1]:
                note(event, copies)
        if held(copies) != there:
            raise EngineError(
                f"filled again, the engine holds {len(held(copies)):,} blocks and not the {len(there):,} "
                "that it held; record again into another folder"
            )
        self._watch.forget()
        self._step = before[-1].steps[1] + 1
        self._began = time.monotonic() - before[-1].done_s

    def play(self, asked: Sequence[Asked], out: Writer, told: Told) -> None:
        """Steps the engine until all requests are over; each is written once it is."""
        over = {one.number for one in self._plan.requests} - {one.number for one in asked}
        waiting, total = list(asked), len(self._plan.requests)
        while waiting or self._engine.has_unfinished_requests():
            for one in self._due(waiting, over):
                waiting.remove(one)
                self._hand_over(one)
            if not self._engine.has_unfinished_requests():
                self._idle(waiting)
                continue
            for done in self._stepped(out):
                over.add(done.request)
                self.finished.append(done)
                out.request(done)
            told(len(over), total)

    def _due(self, waiting: Sequence[Asked], over: set[int]) -> Iterator[Asked]:
        beside = self._config.max_num_seqs > 1  # else the engine itself keeps the order
        ready = [one for one in waiting if not beside or one.waits_for < 0 or one.waits_for in over]
        yield from (one for one in ready if self._clock() >= self._time_of(one))

    def _clock(self) -> float:
        return {"trace": self._now(), "step": float(self._step), "once": 0.0}[self._pace.at]

    def _time_of(self, one: Asked) -> float:
        """When a request is due on the clock."""
        since = one.time_s - self._plan.requests[0].time_s
        return {"trace": since / self._pace.rate, "step": since * self._pace.rate, "once": 0.0}[self._pace.at]

    def _idle(self, waiting: Sequence[Asked]) -> None:
        """Lets the time pass until the next request is due."""
        due = min(self._time_of(one) for one in waiting)
        if self._pace.at == "trace":
            time.sleep(max(0.0, due - self._now()))
        else:
            self._step = max(self._step, -int(-due // 1))

    def _stepped(self, out: Writer) -> Iterator[Recorded]:
        """One step; yields the requests that it ended."""
        answers = self._engine.step()
        ops, events = self._watch.taken()
        now, step = self._now(), self._step
        for op in ops:
            if op[0] == "take":
                self._steps.setdefault(op[1], step)
                if len(self._times[op[1]]) == 1:
                    self._times[op[1]].append(now)
        free = self._scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
        running, waiting = self._scheduler.get_request_counts()
        preempted = self._watch.preempted.total()
        out.step(Step(step, now, running, waiting, free, preempted, ops))
        if events:
            out.events(step, now, events)
        self._step += 1
        for answer in answers:
            if answer.finished:
                yield self._recorded(answer, now, step)

    def _recorded(self, answer: Any, now: float, step: int) -> Recorded:
        number = int(answer.request_id)
        asked = self._plan.requests[number]
        arrived, started = self._times.pop(number)
        generated = len(answer.outputs[0].token_ids)
        if generated != asked.generated:
            raise EngineError(
                f"request {number} was to generate {asked.generated} tokens and generated {generated}; "
                "report this with the engine's version"
            )
        return Recorded(
            request=number,
            time_s=asked.time_s,
            sequence=asked.sequence,
            prompt=asked.prompt,
            generated=generated,
            blocks=_runs(asked.blocks),
            found=self._watch.first_found[number],
            preempted=self._watch.preempted[number],
            arrived_s=arrived,
            started_s=started,
            done_s=now,
            steps=(self._steps[number], step),
        )


def _runs(blocks: Sequence[int]) -> tuple[tuple[int, int], ...]:
    runs: list[list[int]] = []
    for block in blocks:
        if runs and sum(runs[-1]) == block:
            runs[-1][1] += 1
        else:
            runs.append([block, 1])
    return tuple((start, length) for start, length in runs)
