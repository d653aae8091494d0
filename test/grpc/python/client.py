"""A CRI client of gRPC core, with its defaults: prints what three calls of Version answer on one connection."""

import sys

import grpc

with grpc.insecure_channel("unix:" + sys.argv[1]) as channel:
    version = channel.unary_unary("/runtime.v1.RuntimeService/Version")
    for _ in range(3):
        print(version(b"", timeout=60).decode("latin-1"))
