"""The rules of saxml.native.Scheduler once more, as plainly as Python allows.

Pages are objects here, a cached sequence is the list of its tokens, prompts grow token by token,
and the prefix cache is a dictionary from whole beginnings to pages: nothing is shared with the C++
but the rules.
"""

from tests.unit.native.scheduler_books import (
    Beam,
    Books,
    Entry,
    Page,
    Phase,
    Request,
    Row,
    Run,
    Step,
)


class Model(Books):
    """What a step takes in, and what comes of its results."""

    def may_advance(self, request_id: int, parents: list[int]) -> bool:
        run = self.find(request_id)
        return (
            run is not None
            and run.phase is Phase.AWAITING
            and not run.unknown
            and not run.request.targets
            and 1 <= len(parents) <= run.request.width
            and all(0 <= p < len(run.beams) for p in parents)
            and run.advances < run.request.max_new_tokens
        )

    def advance(self, request_id: int, parents: list[int], tokens: list[int]) -> None:
        run = self.find(request_id)
        assert run is not None
        children: list[Beam] = []
        for p, token in zip(parents, tokens, strict=True):
            parent = run.beams[p]
            beam = Beam(list(parent.cached), list(parent.pages), token, parent.entered)
            beam.sample = len(children)
            children.append(beam)
        self._let_go(run, children)
        run.phase = Phase.DECODE
        run.advances += 1

    def may_run_ahead(self, ids: list[int]) -> bool:
        runs = [run for run in map(self.find, ids) if run and not run.request.targets]
        return not self.room_wanted and all(r.fresh and not r.unknown for r in runs)

    def going_ahead(self, ids: list[int]) -> list[Run]:
        """Those of these requests that do not end with their next tokens."""
        runs = [run for run in map(self.find, ids) if run and not run.request.targets]
        return [r for r in runs if r.advances + 1 < r.request.max_new_tokens]

    def run_ahead(self, run: Run, tokens: list[int]) -> None:
        """tokens: what the device chooses for each entry; the scheduler is told later."""
        samples = [beam.sample for beam in run.beams]
        if run.advances == 0:
            self.advance(run.request.id, [0] * len(tokens), tokens)
        else:
            self.advance(run.request.id, list(range(len(tokens))), tokens)
            for beam, sample in zip(run.beams, samples, strict=True):
                beam.sample = sample
        run.unknown = True

    def resolve(self, run: Run, samples: list[int]) -> None:
        self._let_go(run, [beam for beam in run.beams if beam.sample in samples])
        run.unknown = False

    def drop(self, now: float) -> dict[int, str]:
        dropped = dict.fromkeys(self.cancels, "CANCELLED")
        for request in [*self.waiting, *(r.request for r in self.running + self.suspended)]:
            if request.deadline <= now:
                dropped.setdefault(request.id, "EXPIRED")
        for request_id in dropped:
            self.release(request_id)
        return dropped

    def plan(self) -> Step | None:
        """Give the step after drop(), and make it."""
        for run in self.running:
            self._enter(run)
        for run in [r for r in self.running if r.phase is Phase.RESTORE]:
            if all(self._start_beam(run, seq) for seq in range(len(run.beams))):
                self._restored(run)
        for run in self.running:
            run.fresh = False
        rows: list[Row] = []
        for run in [r for r in self.running if r.phase is Phase.DECODE]:
            for seq, beam in enumerate(run.beams):
                entry = self._entry(run, seq, len(beam.cached) + 1)
                rows.append(Row(run, seq, [beam.pending], [entry]))
        for run in self.running:
            self._choose(rows, run)
        self._start(rows)
        if not rows:
            return None
        step = Step()
        for row in rows:
            self._add_row(step, row)
        self._grow(step)
        most = max(len(step.starts), len(step.entries))
        step.bucket = min(
            t for t in self.buckets if t >= len(step.tokens) and min(t, self.max_rows) >= most
        )
        return step

    def _left(self, rows: list[Row]) -> int:
        return self.buckets[-1] - sum(len(row.tokens) for row in rows)

    def _start(self, rows: list[Row]) -> None:
        """Starts requests, or goes on with suspended ones, in order while there is room."""
        self.room_wanted = False
        while self.waiting or self.suspended:
            self.room_wanted = False
            heads = [(r, None) for r in self.waiting] + [(r.request, r) for r in self.suspended]
            request, run = min(heads, key=lambda head: head[0].place())
            victims = [r for r in self.running if self._may_preempt(r, request)]
            awaited = any(
                self._yields(r, request) and not self._may_preempt(r, request) for r in self.running
            )
            if not self._left(rows) and not victims:
                self.room_wanted = awaited
                return
            pages = self._prefix(request, run)
            if pages is None:
                return
            held = pages[: len(request.prompt) // self.page_size]
            if self._fits(request, held, []):
                if not self._left(rows):
                    return
            elif not self._make_room(rows, request, held, victims):
                self.room_wanted = awaited
                return
            count = len(pages) * self.page_size
            if run is None:
                self.waiting.remove(request)
                run = Run(request, [Beam(request.prompt[:count], pages, entered=len(pages))], held)
                if self.prefix_cache and request.cache_read:
                    self.queried += len(request.prompt)
                    self.hits += count
            else:
                self.suspended.remove(run)
                run.held = held
                self._begin(run.beams[0], run, pages)
            self.running.append(run)
            self.idle = [p for p in self.idle if p not in pages]
            self._choose(rows, run)

    def _begin(self, beam: Beam, run: Run, pages: list[Page]) -> None:
        count = len(pages) * self.page_size
        known = run.request.prompt if run.phase is Phase.PREFILL else beam.lost
        beam.cached, beam.lost = known[:count], beam.lost[count:]
        beam.pages, beam.entered = list(pages), len(pages)
        self.idle = [p for p in self.idle if p not in pages]

    def _yields(self, run: Run, head: Request) -> bool:
        few = run.suspensions < self.max_preemptions
        return run.request.priority < head.priority and few

    def _may_preempt(self, run: Run, head: Request) -> bool:
        return self._yields(run, head) and run.phase is not Phase.AWAITING and not run.unknown

    def _make_room(
        self, rows: list[Row], head: Request, held: list[Page], candidates: list[Run]
    ) -> bool:
        victims: list[Run] = []
        for run in sorted(candidates, key=lambda r: r.request.place(), reverse=True):
            if self._fits(head, held, victims):
                break
            victims.append(run)
        if not self._fits(head, held, victims):
            return False
        for run in reversed(list(victims)):
            if self._fits(head, held, [v for v in victims if v is not run]):
                victims.remove(run)
        for run in victims:
            rows[:] = [row for row in rows if row.run is not run]
            self._suspend(run)
        return True

    def _suspend(self, run: Run) -> None:
        beams = [
            Beam([], [], beam.pending, 0, beam.sample, beam.cached + beam.lost)
            for beam in run.beams
        ]
        if run.phase is Phase.PREFILL:
            run.scored = max(run.scored, len(run.beams[0].cached))
            beams[0].lost = []
        elif run.phase is Phase.DECODE:
            run.phase = Phase.RESTORE
        self._let_go(run, [])
        run.beams = beams
        run.suspensions += 1
        self.preemptions += 1
        self.suspended.append(run)

    def _fits(self, request: Request, pages: list[Page], without: list[Run]) -> bool:
        others = [r for r in self.running if all(r is not w for w in without)]
        claims = [(request, pages), *((r.request, r.held) for r in others)]
        own = sum(self.worst_case(request) - len(held) for request, held in claims)
        held_by_any = {id(page) for _, held in claims for page in held}
        return (
            sum(request.width for request, _ in claims) <= self.max_rows
            and own + len(held_by_any) <= self.num_pages
        )

    def _choose(self, rows: list[Row], run: Run) -> None:
        if run.phase is Phase.PREFILL:
            self._prefill(rows, run)
        elif run.phase is Phase.RESTORE:
            self._restore(rows, run)

    def _restore(self, rows: list[Row], run: Run) -> None:
        for seq, beam in enumerate(run.beams):
            if not self._left(rows) or not self._start_beam(run, seq):
                return
            if beam.lost:
                rows.append(Row(run, seq, beam.lost[: self._left(rows)], []))

    def _start_beam(self, run: Run, seq: int) -> bool:
        """Puts a beam to restore on the pages of an earlier one that is like it for the longest, or
        on more of the index; False: that one is not yet so far."""
        beam = run.beams[seq]
        if seq == 0 or beam.cached:
            return True
        most = len(beam.lost) // self.page_size
        alike = []
        for other in run.beams[:seq]:
            whole = other.cached + other.lost
            same = 0
            while same < min(len(whole), len(beam.lost)) and whole[same] == beam.lost[same]:
                same += 1
            alike.append(min(same // self.page_size, most))
        count = max(alike)
        other = run.beams[alike.index(count)]
        if len(other.cached) < count * self.page_size:
            return False
        pages = other.pages[:count]
        if self.prefix_cache and run.request.cache_read:
            pages = max(pages, self._find(run.request, beam.lost, most), key=len)
        self._begin(beam, run, pages)
        return True

    def _prefill(self, rows: list[Row], run: Run) -> None:
        request, beam = run.request, run.beams[0]
        prompt, first_scored = request.prompt, len(request.prompt) - len(request.targets)
        left = self._left(rows)
        entries_left = self.max_rows - sum(len(row.entries) for row in rows)
        taken: list[int] = []
        entries: list[Entry] = []
        for i in range(len(beam.cached), len(prompt)):
            if len(taken) == left:
                break
            new = []
            if request.targets:
                if i >= max(first_scored, run.scored):
                    new = [self._entry(run, 0, i + 1, target=request.targets[i - first_scored])]
            elif i == len(prompt) - 1:
                samples = range(request.width if request.fork_at_start else 1)
                new = [self._entry(run, 0, i + 1, sample=s) for s in samples]
            if len(entries) + len(new) > entries_left:
                if request.targets:
                    break
                return
            for entry in new:
                entry.token = len(taken)
            taken.append(prompt[i])
            entries += new
        if taken:
            rows.append(Row(run, 0, taken, entries))

    def _entry(
        self, run: Run, seq: int, position: int, *, target: int = -1, sample: int = -1
    ) -> Entry:
        request = run.request
        sample = run.beams[seq].sample if sample < 0 else sample
        return Entry(request.id, seq, 0, target, sample, position, request.row_params)

    def _add_row(self, step: Step, row: Row) -> None:
        run, beam = row.run, row.run.beams[row.seq]
        begin = len(beam.cached)
        beam.cached += row.tokens
        if run.unknown:
            step.sources[len(step.tokens)] = (run.request.id, beam.sample)
        step.beams.append(beam)
        step.starts.append(len(step.tokens))
        for entry in row.entries:
            entry.token += len(step.tokens)
        step.tokens += row.tokens
        step.positions += range(begin, begin + len(row.tokens))
        step.histories.append(list(beam.cached))
        step.salts.append(run.request.cache_salt)
        step.entries += row.entries
        if run.phase is Phase.PREFILL:
            if len(beam.cached) == len(run.request.prompt):
                run.phase, run.fresh = Phase.AWAITING, True
        elif run.phase is Phase.RESTORE:
            del beam.lost[: len(row.tokens)]
            self._restored(run)
        else:
            step.decode_rows += 1
            if row.seq == len(run.beams) - 1:
                run.phase, run.fresh = Phase.AWAITING, True

    def _restored(self, run: Run) -> None:
        if not any(beam.lost for beam in run.beams):
            run.phase = Phase.DECODE

    def _grow(self, step: Step) -> None:
        """Gives the rows their pages, after all were chosen: the last prompt was looked up before
        any page is taken from the prefix cache."""
        for beam, start in zip(step.beams, step.starts, strict=True):
            last_is_full = step.positions[start] % self.page_size == 0
            if not last_is_full and self._users(beam.pages[-1]) > 1:
                beam.pages[-1] = self._new_page()
                step.copies += 1
            while len(beam.pages) * self.page_size < len(beam.cached):
                beam.pages.append(self._new_page())
