//! Sessions from accept to close, generic over the engine.
