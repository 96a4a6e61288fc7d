"""What batching brings: the service as it comes beside the same with batches of one."""

from benchmarks.serving.bench import Bench, complaints_in, interleaved, under_load, wrong_in
from benchmarks.serving.intervals import ratios
from benchmarks.serving.metagraft import NAME, serving
from benchmarks.serving.results import LOAD_HEAD, Section, Table, goal, load_cells

CONCURRENCY = 16
ONE_BY_ONE = "Metagraft, METAGRAFT_BATCH_SIZE=1"


def run(bench: Bench) -> Section:
    folder = bench.folder / "batching"
    with (
        serving(bench.home, folder / "batched") as batched,
        serving(bench.home, folder / "single", name=ONE_BY_ONE, batch_size=1) as single,
    ):
        samples = interleaved([batched, single], bench.repeats, under_load(bench, "text", CONCURRENCY))
    rates = {name: [sample.load.per_second for sample in several] for name, several in samples.items()}
    tails = {name: [sample.load.p99_ms for sample in several] for name, several in samples.items()}
    return Section(
        name="batching",
        protocol=f"Short texts of one model, concurrency {CONCURRENCY}; two processes of the service take turns.",
        tables=[
            Table(
                title="Text:",
                head=("system", *LOAD_HEAD),
                lines=[[name, *load_cells(several)] for name, several in samples.items()],
            )
        ],
        goals=[
            goal("text: requests/s over those of batches of one", ratios(rates[NAME], rates[ONE_BY_ONE]), 3.5, "times",
                 at_most=False),
            goal("text: p99 over that of batches of one", ratios(tails[NAME], tails[ONE_BY_ONE]), 1.0, "times",
                 at_most=True),
            goal("batching: wrong answers", [float(wrong_in(samples))], 0, "", at_most=True),
        ],
        notes=complaints_in(samples),
    )  # fmt: skip
