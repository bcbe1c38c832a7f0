"""What benchmarks/launches.py reads in XLA's list of a program's work."""

import launches

THUNKS = """\
000: kCommandBuffer [source       | next=069 (1)]
    001: kCopy         [source | sink] kCopy
002: kWhile         [prev=000 (1) | next=000 (1)]
condition:
    003: kCustomKernel [source | sink] loop_compare_fusion grid: [1, 1, 1]
  body:
    000: kCommandBuffer [source       | next=007 (1)]
        004: kCustomKernel [source        | next=005 (1) ] loop_add_fusion grid: [1, 1, 1]
        005: kCustomKernel [prev=004 (1)  | sink         ] loop_add_fusion_1 grid: [1, 1, 1]
    007: kConvolution   [prev=000 (1) | next=008 (1)] kConvolution
    008: kCustomKernel [prev=007 (1)  | sink         ] input_reduce_fusion grid: [1, 1, 1]
009: kCopy         [source | sink] kCopy
"""


def test_the_loop_alone_is_counted() -> None:
    # three kernels and a convolution, started by a command buffer and two launches of their own
    assert launches.count(THUNKS) == (4, 1, 3)
