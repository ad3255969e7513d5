"""protoc with the Python, stub and gRPC plugins, from grpcio-tools."""

import pathlib
import sys

import grpc_tools
from grpc_tools import protoc

if __name__ == "__main__":
    well_known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    sys.exit(protoc.main([*sys.argv, f"-I{well_known}"]))
