"""Weights that are loaded while a server runs."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

from alignment.serve.guard import Access
from tests.unit.serve.served import PROMPT, TOKEN, complete, events, policy_server, refused


def test_weights_are_loaded_while_it_runs(folders):
    with policy_server(folders / "one", Access(token=TOKEN, only_local_names=False)) as (client, service, _):
        first, keys = complete(client).json(), {"prompt": PROMPT, "seed": 5, "min_tokens": 40, "max_tokens": 40}
        wanted = client.post("/v1/completions", json=keys).json()["choices"][0]["text"]
        with client.stream("POST", "/v1/completions", json={**keys, "stream": True}) as running:
            lines = (line for line in running.iter_lines() if "choices" in line)
            start = next(lines)
            with ThreadPoolExecutor(4) as pool:
                loading = pool.submit(client.post, "/reload", json={"folder": str(folders / "two")})
                while client.get("/health").json() != {"status": "loading"}:
                    time.sleep(0.001)
                waiting = [pool.submit(complete, client, **more) for more in ({}, {"stream": True})]
                done = loading.result().json()
            old = "".join(json.loads(line.removeprefix("data: "))["choices"][0]["text"] for line in (start, *lines))
        assert done["version"] == 1 and old == wanted
        second, (whole, parts) = complete(client).json(), [future.result() for future in waiting]
        assert client.get("/health").json() == {"status": "ok"}
        weights = client.get("/v1/models/tiny").json()["system_fingerprint"]
        assert (
            whole.json()["choices"] == second["choices"]
            and whole.json()["system_fingerprint"] == weights != first["system_fingerprint"]
        )
        assert {event["system_fingerprint"] for event in events(parts)} == {weights}
        refused(client.post("/reload", json={"folder": ""}), 400, "folder=''")
        assert second["choices"] != first["choices"]
        for name, said in (("wide", "another shape"), ("none", "no such folder")):
            refused(client.post("/reload", json={"folder": str(folders / name)}), 409, said, "have not changed")
        assert complete(client).json()["choices"] == second["choices"]
        assert client.post("/reload", json={"folder": str(folders / "one")}).json()["version"] == 2
        third = complete(client).json()
        assert [third[key] for key in ("choices", "system_fingerprint")] == [
            first[key] for key in ("choices", "system_fingerprint")
        ], "the same weights have the same name"
