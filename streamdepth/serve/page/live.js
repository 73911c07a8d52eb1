// The live view: WebRTC if it connects, otherwise Motion JPEG; and depth under the pointer.
const CONNECT_MS = 4000;
const STALL_MS = 4000;
const PROBE_MS = 90;

const $ = (id) => document.getElementById(id);

export class Live {
  constructor({ say, look, at }) {
    this.say = say;
    this.at = at;
    this.look = look;
    this.peer = null;
    this.kind = "";
    this.point = null;
    this.state = null;
    this.begun = 0;
    const stage = $("stage");
    for (const name of ["pointermove", "pointerdown"]) stage.addEventListener(name, (event) => this.aim(event));
    stage.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse") this.lift();
    });
    setInterval(() => this.probe(), PROBE_MS);
    $("video").addEventListener("resize", () => this.place());
  }

  start(page) {
    this.page = page;
    this.stop();
    this.begin();
  }

  stop() {
    this.begun++;
    if (this.peer) this.peer.close();
    this.peer = null;
    $("mjpeg").removeAttribute("src");
    $("mjpeg").hidden = $("video").hidden = true;
    $("transport").hidden = true;
    this.kind = "";
    this.lift();
  }

  show(state) {
    const began = !this.state || (!this.state.source && state.source);
    this.state = state;
    $("empty").hidden = this.kind !== "";
    if (began && this.kind === "mjpeg") this.start(this.page);
  }

  count(sample) {
    // A silent peer is replaced while the server has new frames.
    if (this.kind !== "webrtc" || !sample.fps_shown) return (this.heard = performance.now());
    const now = $("video").currentTime;
    if (now !== this.clock) [this.clock, this.heard] = [now, performance.now()];
    else if (document.visibilityState === "visible" && performance.now() - this.heard > STALL_MS) this.useMjpeg(this.begun);
  }

  async begin() {
    const turn = this.begun;
    if (!window.RTCPeerConnection || new URLSearchParams(location.search).get("transport") === "mjpeg") {
      return this.useMjpeg(turn);
    }
    const peer = new RTCPeerConnection({ iceServers: [] });
    this.peer = peer;
    const video = $("video");
    const shown = new Promise((done, fail) => {
      setTimeout(() => fail(new Error("no frame in time")), CONNECT_MS);
      peer.ontrack = ({ receiver, streams, track }) => {
        if ("jitterBufferTarget" in receiver) receiver.jitterBufferTarget = 0;
        video.srcObject = streams[0] || new MediaStream([track]);
        video.onplaying = done;
        video.play().catch(fail);
      };
      peer.onconnectionstatechange = () => {
        if (peer.connectionState !== "failed") return;
        fail(new Error("failed"));
        if (this.kind === "webrtc") this.useMjpeg(turn);
      };
    });
    shown.catch(() => {});
    try {
      peer.addTransceiver("video", { direction: "recvonly" });
      await peer.setLocalDescription();
      await gathered(peer);
      const answer = await fetch(this.at("/v1/live/offer"), {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ type: "offer", sdp: peer.localDescription.sdp, page: this.page }),
      });
      if (!answer.ok) throw new Error("refused");
      await peer.setRemoteDescription(await answer.json());
      await shown;
      if (turn !== this.begun) return;
      this.use("webrtc", video);
    } catch {
      this.useMjpeg(turn);
    }
  }

  useMjpeg(turn) {
    if (turn !== this.begun) return;
    if (this.peer) this.peer.close();
    this.peer = null;
    this.kind = "";
    const image = $("mjpeg");
    image.onload = () => turn === this.begun && this.use("mjpeg", image);
    image.onerror = () => {
      if (turn !== this.begun) return;
      setTimeout(() => turn === this.begun && (image.src = this.at(`/v1/live.mjpg?${Date.now()}`)), 1500);
    };
    image.src = this.at(`/v1/live.mjpg?${Date.now()}`);
  }

  use(kind, element) {
    this.kind = kind;
    $("video").hidden = element !== $("video");
    $("mjpeg").hidden = element !== $("mjpeg");
    $("empty").hidden = true;
    $("transport").hidden = false;
    $("transport").textContent = kind === "webrtc" ? "WebRTC" : "MJPEG";
    this.heard = performance.now();
  }

  // Position of the frame on the stage, without the bars of object-fit.
  box() {
    const element = this.kind === "webrtc" ? $("video") : $("mjpeg");
    const width = element.videoWidth || element.naturalWidth;
    const height = element.videoHeight || element.naturalHeight;
    if (!this.kind || !width || !height) return null;
    const outer = element.getBoundingClientRect();
    const stage = $("stage").getBoundingClientRect();
    const scale = Math.min(outer.width / width, outer.height / height);
    return {
      left: outer.left - stage.left + (outer.width - width * scale) / 2,
      top: outer.top - stage.top + (outer.height - height * scale) / 2,
      width: width * scale,
      height: height * scale,
    };
  }

  aim(event) {
    const box = this.box();
    const look = this.look();
    if (!box || !look) return;
    const stage = $("stage").getBoundingClientRect();
    let x = (event.clientX - stage.left - 1 - box.left) / box.width;
    let y = (event.clientY - stage.top - 1 - box.top) / box.height;
    if (x < 0 || y < 0 || x > 1 || y > 1) return this.lift();
    if (look.view === "side") x = x < 0.5 ? 2 * x : 2 * x - 1;
    if (look.view === "stack") y = y < 0.5 ? 2 * y : 2 * y - 1;
    const first = !this.point;
    this.point = { x, y };
    this.place();
    if (first) this.probe();
  }

  lift() {
    this.point = null;
    $("readout").hidden = $("mark-a").hidden = $("mark-b").hidden = true;
  }

  probe() {
    if (this.point) this.say({ type: "probe", ...this.point });
  }

  place() {
    const box = this.point && this.box();
    const look = this.look();
    if (!box || !look) return this.lift();
    const { x, y } = this.point;
    const spots = [[x, y]];
    if (look.view === "side") spots.splice(0, 1, [x / 2, y], [0.5 + x / 2, y]);
    if (look.view === "stack") spots.splice(0, 1, [x, y / 2], [x, 0.5 + y / 2]);
    const at = spots.map(([across, down]) => [box.left + across * box.width, box.top + down * box.height]);
    ["mark-a", "mark-b"].forEach((id, index) => {
      const mark = $(id);
      mark.hidden = index >= at.length;
      if (!mark.hidden) [mark.style.left, mark.style.top] = at[index].map((px) => `${px}px`);
    });
    const [left, top] = at[at.length - 1];
    const readout = $("readout");
    const stage = $("stage");
    const width = readout.offsetWidth || 120;
    readout.style.left = `${Math.max(6, Math.min(left + 16, stage.clientWidth - width - 6))}px`;
    readout.style.top = `${top > 52 ? top - 46 : top + 16}px`;
  }

  showDepth(depth) {
    if (!this.point || depth.x === null) return;
    const none = depth.value === null;
    const value = none ? "no depth" : depth.unit ? `${depth.value.toFixed(depth.value < 10 ? 2 : 1)} ${depth.unit}` : `${Math.round(depth.nearness * 100)}% near`;
    $("readout-value").textContent = value;
    $("readout-more").textContent = none || depth.unit ? "" : `raw ${Number(depth.value.toPrecision(4))}`;
    $("readout").hidden = false;
    this.place();
  }
}

// All candidates at once: there is only one server, and it is near.
function gathered(peer) {
  if (peer.iceGatheringState === "complete") return Promise.resolve();
  return new Promise((done) => {
    setTimeout(done, 1000);
    peer.onicegatheringstatechange = () => peer.iceGatheringState === "complete" && done();
  });
}
