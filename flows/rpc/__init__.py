"""The gRPC interface as Python: made of ``proto/`` by ``tools/generate_grpc.py``."""
