"""Print as JSON what role hdfs looks at on a host: look.py MARK NAME…"""

import json
import socket
import sys
from pathlib import Path

addresses = {}
for name in sys.argv[2:]:
    try:
        found = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)
    except OSError:
        found = []
    addresses[name] = sorted({address[4][0] for address in found})
print(json.dumps({"installed": Path(sys.argv[1]).exists(), "addresses": addresses}))
