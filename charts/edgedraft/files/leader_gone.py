"""Exits when the leader of this group no longer answers; run by a worker before it stops."""

import os
import time
import urllib.error
import urllib.request

URL = f"http://{os.environ['LWS_LEADER_ADDRESS']}:9000/healthz"

while True:
    try:
        urllib.request.urlopen(URL, timeout=5).close()
    except urllib.error.HTTPError:
        pass  # the leader still answers
    except OSError:
        break
    time.sleep(1)
