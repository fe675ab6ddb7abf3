#!/usr/bin/env python3
"""A simple script: reads all pages of get_appid_group_list and upserts every id with its time.

usage: upsert.py BASE_URL KEY DATABASE TYPE...

Uses only the standard library. Prints its measurements as JSON.
"""
import base64, hashlib, hmac, json, random, resource, sqlite3, sys, time, urllib.parse, zlib
from http.client import HTTPConnection

base_url, key, database, types = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
app, identifier, now, expire = 1400000000, "administrator", int(time.time()), 86400

text = f"TLS.identifier:{identifier}\nTLS.sdkappid:{app}\nTLS.time:{now}\nTLS.expire:{expire}\n"
sig = base64.b64encode(hmac.new(key.encode(), text.encode(), hashlib.sha256).digest()).decode()
document = {"TLS.ver": "2.0", "TLS.identifier": identifier, "TLS.sdkappid": app,
            "TLS.expire": expire, "TLS.time": now, "TLS.sig": sig}
usersig = base64.b64encode(zlib.compress(json.dumps(document).encode())).decode()
usersig = usersig.replace("+", "*").replace("/", "-").replace("=", "_")

db = sqlite3.connect(database)
db.execute("PRAGMA journal_mode = WAL")
db.execute("""CREATE TABLE IF NOT EXISTS groups (group_id TEXT PRIMARY KEY, group_type TEXT,
              first_seen REAL, last_seen REAL, deleted_at REAL)""")
api = HTTPConnection(urllib.parse.urlsplit(base_url).netloc)
started, listed, before = time.time(), 0, resource.getrusage(resource.RUSAGE_SELF)
for group_type in types:
    cursor = 0
    while True:
        query = urllib.parse.urlencode({"sdkappid": app, "identifier": identifier, "usersig": usersig,
                                        "random": random.getrandbits(32), "contenttype": "json"})
        body = json.dumps({"Limit": 10000, "Next": cursor, "GroupType": group_type})
        api.request("POST", "/v4/group_open_http_svc/get_appid_group_list?" + query, body,
                    {"Content-Type": "application/json"})
        answer = json.load(api.getresponse())
        assert answer["ErrorCode"] == 0, answer
        seen = time.time()
        with db:
            db.executemany("""INSERT INTO groups VALUES (?, ?, ?, ?, NULL)
                              ON CONFLICT (group_id) DO UPDATE SET group_type = excluded.group_type,
                                  last_seen = excluded.last_seen, deleted_at = NULL""",
                           [(g["GroupId"], group_type, seen, seen) for g in answer["GroupIdList"]])
        listed += len(answer["GroupIdList"])
        cursor = answer["Next"]
        if cursor == 0:
            break
with db:
    db.execute("UPDATE groups SET deleted_at = ? WHERE last_seen < ? AND deleted_at IS NULL", (time.time(), started))
db.close()

used = resource.getrusage(resource.RUSAGE_SELF)
written = next(int(line.split()[1]) for line in open("/proc/self/io") if line.startswith("write_bytes"))
print(json.dumps({"groups": listed, "wall": time.time() - started,
                  "cpu": used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime,
                  "written": written, "rss": used.ru_maxrss * 1024}))
