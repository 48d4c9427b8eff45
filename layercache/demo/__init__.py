"""The demo: a broker, a worker, a trainer and a publisher as processes, watched live, then measured and reported."""
