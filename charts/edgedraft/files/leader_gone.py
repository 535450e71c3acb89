"""Ends when the verifier that leads this group no longer answers: what a worker waits for before it ends itself."""

import os
import time
import urllib.error
import urllib.request

URL = f"http://{os.environ['LWS_LEADER_ADDRESS']}:9000/healthz"

while True:
    try:
        urllib.request.urlopen(URL, timeout=5).close()
    except urllib.error.HTTPError:
        pass  # an answer all the same
    except OSError:
        break
    time.sleep(1)
