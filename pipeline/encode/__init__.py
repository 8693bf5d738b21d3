from pipeline.encode.build import EncodeConfig, encode_split

__all__ = ["EncodeConfig", "encode_split"]
