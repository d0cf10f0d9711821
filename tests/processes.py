"""Running functions in processes of their own, forked from a server without autograd's threads.

A fork of the test's own process would inherit locks of its threads, and of CUDA where there is a
GPU.
"""

import multiprocessing
import traceback

import cloudpickle

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["pcka.classification.train", "sklearn.datasets", "torch.utils.tensorboard"]
)


def run(job, *arguments):
    """Start ``job(*arguments)``, a closure too, and return its process."""
    process = _CONTEXT.Process(target=_work, args=(cloudpickle.dumps(job), arguments))
    process.start()
    return process


def run_ranks(job, world):
    """Run ``job(rank)`` for every rank at once; return the results by rank."""
    queue = _CONTEXT.SimpleQueue()
    processes = [run(_answering(job), queue, rank) for rank in range(world)]
    results = dict(queue.get() for _ in processes)
    for process in processes:
        process.join()
    for result in results.values():
        assert not isinstance(result, str), result
    return [results[rank] for rank in range(world)]


def _answering(job):
    def answer(queue, rank):
        try:
            queue.put((rank, job(rank)))
        except BaseException:
            queue.put((rank, traceback.format_exc()))

    return answer


def _work(pickled, arguments):
    import torch

    torch.set_num_threads(1)
    cloudpickle.loads(pickled)(*arguments)
