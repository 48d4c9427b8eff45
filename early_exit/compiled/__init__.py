"""The model compiled: the same network as a graph of OpenVINO, in float32, bfloat16 or int8.

:mod:`openvino_runtime` is where OpenVINO comes from: it is an extra, and everything works without it. :mod:`allowed`
tells what may be compiled by a classifier's settings. :mod:`graphs` converts a module, keeps the result as bytes that
shared storage can hold, and compiles it; :mod:`whole_models` are the model as one graph; :mod:`quantising` makes the
int8 graph, from frames of the stream and without labels; :mod:`chains` run the pieces of a cut model one after another,
with :mod:`byte_maps` between those of int8; :mod:`probes` tell whether another machine computes as the one that
certified.
"""
