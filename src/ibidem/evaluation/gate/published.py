"""Digests of published benchmarks: by them anyone can see what a gate measures. `ibidem gate pin` names them.

Each is `evidence.benchmark_digest` of the benchmark's rows, so it does not depend on compression or on CSV dialects.
"""

PUBLISHED = {
    "sha256:9345bdf84c12086d808c671a8f61f2fa89353e1c147804ec9c2223102d7dadc3": "HumanEval, 164 problems",
    "sha256:6295dfbe170c493be0fc8dac09a57714d5cbc7136bd3a8996d0f95dec6cd870e": "MBPP, 974 problems",
    "sha256:0478255eb591508802588ee8989b4b4760a6e295ca5e0dec9b7db9efed4a636d": "MBPP sanitized, 427 problems",
    "sha256:1738032870ccedd0cf791f7df93397d0023de8c450109780cea490dafdf4e66b": "MMLU, 57 subjects",
    "sha256:a3bae5d14d69f5f9496d8633c8198a9512c5fd99f8e6854a309bde8655c9f71e": "MMLU: business, security, software",
}
