# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium, driven over its DevTools protocol through a pipe: no driver to install, no port to guard."""
import base64, collections, json, os, select, shutil, subprocess, tempfile, time

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
KEYS = {"Enter": 13, "Escape": 27, "Tab": 9, " ": 32}


class Browser:
    def __init__(self, width=1280, height=860):
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_read, self.write_fd = os.pipe()
        self.read_fd, to_write = os.pipe()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage", "--hide-scrollbars",
                 "--disable-background-networking", "--disable-component-update", f"--user-data-dir={self.profile.name}",
                 f"--window-size={width},{height}", "--remote-debugging-pipe", "about:blank"]
        self.process = subprocess.Popen(["bash", "-c", f'exec "$@" 3<&{to_read} 4>&{to_write}', "bash", CHROMIUM, *flags],
                                        pass_fds=(to_read, to_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_read)
        os.close(to_write)
        self.inbox = collections.deque()
        self.data, self.id, self.session, self.events, self.on_event = b"", 0, None, [], None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(domain + ".enable")
        self.size(width, height)

    def close(self):
        self.process.terminate()
        self.process.wait(20)
        os.close(self.read_fd)
        os.close(self.write_fd)
        self.profile.cleanup()

    def message(self, timeout):
        deadline = time.time() + timeout
        while not self.inbox:
            if not select.select([self.read_fd], [], [], max(0, deadline - time.time()))[0]:
                return None
            part = os.read(self.read_fd, 1 << 20)
            assert part, "the browser ended"
            *whole, self.data = (self.data + part).split(b"\0")
            self.inbox.extend(whole)
        return json.loads(self.inbox.popleft())

    def take(self, m):
        self.events.append(m)
        if self.on_event:
            self.on_event(m)

    def send(self, method, **params):
        self.id += 1
        m = {"id": self.id, "method": method, "params": params}
        if self.session:
            m["sessionId"] = self.session
        os.write(self.write_fd, json.dumps(m).encode() + b"\0")
        return self.id

    def call(self, method, **params):
        mine = self.send(method, **params)
        while True:
            m = self.message(60)
            assert m, f"{method}: no answer from the browser"
            if m.get("id") == mine:
                assert "error" not in m, (method, m)
                return m["result"]
            if "method" in m:
                self.take(m)

    def wait(self, expression, timeout=30):
        """Until the JavaScript expression is true."""
        deadline = time.time() + timeout
        while not self.js(f"!!({expression})"):
            assert time.time() < deadline, f"never became true: {expression}\n{self.js('document.body.innerText')[:2000]}\n{self.events[-5:]}"
            while m := self.message(0.02):
                if "method" in m:
                    self.take(m)

    def js(self, expression):
        r = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in r, r["exceptionDetails"]
        return r["result"].get("value")

    def open(self, url):
        self.call("Page.navigate", url=url)
        self.wait(f"document.readyState === 'complete' && location.href === {json.dumps(url)}")

    def type(self, text):
        self.call("Input.insertText", text=text)

    def press(self, key, shift=False):
        more = {"text": "\r"} if key == "Enter" else {}
        common = dict(key=key, code=key, windowsVirtualKeyCode=KEYS[key], modifiers=8 if shift else 0)
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **more)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def click(self, selector):
        box = self.js(f"(() => {{ const r = document.querySelector({json.dumps(selector)}).getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2] }})()")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def size(self, width, height):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def scheme(self, name):
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def screenshot(self, path):
        with open(path, "wb") as f:
            f.write(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
