"""Training: what `depthwise bench --training` measures, on several numbers of threads, and peak memory."""
