"""Publishes a submission and prints its result. Needs nats-py: python3 -m pip install nats-py"""

import asyncio
import json
import os
import uuid

import nats


async def main():
    connection = await nats.connect(os.environ["NATS_URL"])
    submission_id = str(uuid.uuid4())
    results = await connection.subscribe(f"envicutor.results.default.{submission_id}")
    submission = {
        "runtime": "python",
        "files": [{"text": "print(sum(map(int, input().split())))"}],
        "tests": [{"stdin": "1 2", "expected": "3"}, {"stdin": "20 22", "expected": "42"}],
    }
    # Waits for the ack: an error here means that nothing was stored.
    await connection.jetstream().publish(
        f"envicutor.submissions.default.interactive.{submission_id}", json.dumps(submission).encode()
    )
    message = await results.next_msg(timeout=300)
    result = json.loads(message.data)
    print(result["outcome"], result["verdict"])
    for run in result["runs"]:
        print(run["verdict"], run["wall_us"], "us", run["memory_peak_bytes"], "bytes", run["stdout"]["text"].strip())
    await connection.close()


asyncio.run(main())
