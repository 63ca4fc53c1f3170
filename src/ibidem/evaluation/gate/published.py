"""Digests of published benchmarks: by them anyone can see what a gate measures. `ibidem gate pin` names them.

Each is `evidence.benchmark_digest` of the benchmark's rows, so it does not depend on compression or on CSV dialects.
"""

PUBLISHED = {
    "sha256:9345bdf84c12086d808c671a8f61f2fa89353e1c147804ec9c2223102d7dadc3": "HumanEval, 164 problems",
    "sha256:c7b62636d76dc7a462e6928996c1193850ab899411be9eb5000eb01d93e51e9d": "HumanEval+ of EvalPlus, 164 problems",
    "sha256:766bd0ee8ac6efeee8c304f28034273e1bd694f76483de4b5bb22e439ee811cb": "HumanEval+ NoExtreme, 164 problems",
    "sha256:d81c20f4adcd158f8c26d543f323675195fc54490a451ca24188f6bc8ddce9eb": "HumanEval+ OriginFmt, 164 problems",
    "sha256:6295dfbe170c493be0fc8dac09a57714d5cbc7136bd3a8996d0f95dec6cd870e": "MBPP, 974 problems",
    "sha256:0478255eb591508802588ee8989b4b4760a6e295ca5e0dec9b7db9efed4a636d": "MBPP sanitized, 427 problems",
    "sha256:cb088ea309f08b1d161ff85fac8a367c4366006c5ae64add122c738f7f5f57d4": "MBPP+ of EvalPlus, 378 problems",
    "sha256:b48e097c65d5461f274bdc0853f7f1aaf9cbbc486ac1addfe5356c4474b77e62": "MBPP+ NoExtreme, 378 problems",
    "sha256:1738032870ccedd0cf791f7df93397d0023de8c450109780cea490dafdf4e66b": "MMLU, 57 subjects",
    "sha256:a3bae5d14d69f5f9496d8633c8198a9512c5fd99f8e6854a309bde8655c9f71e": "MMLU: business, security, software",
}
