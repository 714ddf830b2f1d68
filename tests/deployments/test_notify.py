"""Automations that send what campaigns tell, on a real Prefect server."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CODE = """
import http.server, json, threading, time
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.events import emit_event
from heliodor.core.errors import InputError
from heliodor.deployments.notify import register_notifications

received = []

class Sink(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        received.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass

sink = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Sink)
threading.Thread(target=sink.serve_forever, daemon=True).start()
content = {"subject": "{{subject}}", "body": "{{body}}"}
block = CustomWebhookNotificationBlock(
    name="lab", url=f"http://127.0.0.1:{sink.server_port}/", json_data=content
)
block.save("lab")
Secret(value="x").save("key")
refused = []
for bad in ("lab", "custom-webhook/none", "secret/key"):
    try:
        register_notifications("noted", bad)
    except InputError as error:
        refused.append(str(error))
names = [register_notifications("noted", "custom-webhook/lab") for _ in range(2)]
with get_client(sync_client=True) as client:
    found = [a.name for a in client.read_automations() if a.name.startswith("heliodor noted")]

def tell(campaign):
    name = {"prefect.resource.name": campaign}
    resource = {"prefect.resource.id": f"heliodor.campaign.{campaign}", **name}
    payload = {"message": f"MgO of {campaign}", "folder": "/runs"}
    emit_event("heliodor.sun.found", resource=resource, payload=payload)

deadline = time.monotonic() + 60
while not received and time.monotonic() < deadline:  # the server reads new automations in its own time
    tell("other")
    tell("noted")
    time.sleep(2)
print(json.dumps([refused, names, sorted(found), received]))
"""


def test_events_reach_the_block(tmp_path):
    module = runpy.run_path(str(Path(__file__).parents[1] / "prefect_server.py"))
    with module["prefect_server"](tmp_path / "server") as server:
        done = subprocess.run(
            [sys.executable, "-c", CODE],
            env=server.client(tmp_path / "home"),
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    refused, names, found, received = json.loads(done.stdout.splitlines()[-1])
    for message, words in zip(
        refused, ("give TYPE/NAME", "there is no block", "sends no notifications"), strict=True
    ):
        assert words in message
    assert names[0] == names[1]
    assert found == sorted(names[0]), "registered twice, there once"
    assert received[0]["subject"] == "noted: a crystal on or below the known hull"
    assert received[0]["body"].startswith("MgO of noted")
