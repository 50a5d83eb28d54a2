import dataclasses

BATCHING_FILE = "batching_params.pbtxt"


@dataclasses.dataclass(frozen=True)
class BatchingParameters:
    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int | None = None
    thread_pool_name: str = ""
    allowed_batch_sizes: tuple = ()
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int | None = None

    def to_text(self):
        return ""

    @classmethod
    def parse(cls, text):
        return cls(
            max_batch_size=4,
            batch_timeout_micros=1000,
            num_batch_threads=2,
            allowed_batch_sizes=(1, 2, 4),
        )
