"""The benchmarks: layers of networks by name, on this library and its peers. `python -m benchmarks`, or `make bench`.

Cases, candidates, the gate, the roofline and the timing are those of `depthwise.bench`, its short form.
"""
