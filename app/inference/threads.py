"""Which thread of a process computes on all cores: the one that runs an encoder in torch, and no other.

An OpenMP runtime gives each thread that computes in parallel helpers of its own, which spin while they wait for the
next operator. Once there are more of them than cores, GNU's runtime puts them to sleep instead, and waking them takes
longer than the operators of a short text.
"""

import torch
from threadpoolctl import threadpool_limits


def compute_alone() -> None:
    """From here on the calling thread computes without helpers."""
    torch.get_num_threads()  # torch gives a thread its number when it is first asked, and must not do so later
    threadpool_limits(1, user_api="openmp")
