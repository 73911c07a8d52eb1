// Files dropped on the page: videos become jobs, images are converted at once.
const POLL_MS = 400;

const $ = (id) => document.getElementById(id);

export class Drop {
  constructor({ look }) {
    this.look = look;
    this.most = Infinity;
    this.able = false;
    this.known = new Set();
    $("file").addEventListener("change", (event) => {
      this.take(event.target.files);
      event.target.value = "";
    });
    let depth = 0;
    document.addEventListener("dragenter", (event) => {
      event.preventDefault();
      depth++;
      if (this.able) document.body.classList.add("dragging");
    });
    document.addEventListener("dragleave", () => --depth <= 0 && document.body.classList.remove("dragging"));
    document.addEventListener("dragover", (event) => event.preventDefault());
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      depth = 0;
      document.body.classList.remove("dragging");
      if (this.able) this.take(event.dataTransfer.files);
    });
  }

  show(state) {
    this.able = state.jobs || state.stills;
    this.most = state.max_upload;
    $("drop").hidden = !this.able;
    $("drop-limit").textContent = `Up to ${Math.floor(this.most / 2 ** 20)} MB.`;
    if (this.able && !this.restored) this.restore();
  }

  async restore() {
    this.restored = true;
    const answer = await fetch("/v1/jobs");
    if (answer.ok) for (const job of await answer.json()) if (job.state !== "uploading") this.follow(new Row(job.name), job);
  }

  take(files) {
    for (const file of files) {
      const row = new Row(file.name);
      if (file.size > this.most) row.fail(`too large: the limit is ${Math.floor(this.most / 2 ** 20)} MB`);
      else if (file.type.startsWith("image/") && file.type !== "image/gif") this.still(file, row);
      else this.video(file, row);
    }
  }

  query(extra = {}) {
    const look = this.look() || {};
    const query = new URLSearchParams(extra);
    if (typeof look.style === "string") query.set("style", look.style);
    query.set("reverse", look.reverse ? "true" : "false");
    return query;
  }

  async still(file, row) {
    row.say("estimating depth");
    row.progress(null);
    try {
      const answer = await fetch(`/v1/depth?${this.query()}`, {
        method: "POST",
        headers: { "Content-Type": "application/octet-stream", Accept: "image/png" },
        body: file,
      });
      if (!answer.ok) throw new Error((await answer.json()).error);
      const url = URL.createObjectURL(await answer.blob());
      row.showImage(url, `${file.name.replace(/\.[^.]*$/, "")}-depth.png`);
    } catch (error) {
      row.fail(error.message);
    }
  }

  video(file, row) {
    // XMLHttpRequest reports the progress of an upload; fetch does not.
    const request = new XMLHttpRequest();
    const look = this.look();
    request.open("POST", `/v1/jobs?${this.query({ name: file.name, view: look ? look.view : "side" })}`);
    request.responseType = "json";
    request.upload.onprogress = ({ loaded, total }) => {
      row.progress(loaded / total / 10);
      row.say(`uploading ${Math.round((100 * loaded) / total)}%`);
    };
    request.onload = () => {
      if (request.status === 202) this.follow(row, request.response);
      else row.fail((request.response && request.response.error) || `the server answered ${request.status}`);
    };
    request.onerror = () => row.fail("the upload was interrupted");
    row.action("Cancel", () => {
      request.abort();
      row.remove();
    });
    request.send(file);
  }

  async follow(row, job) {
    const path = `/v1/jobs/${job.id}`;
    if (this.known.has(job.id)) return row.remove();
    this.known.add(job.id);
    const drop = () => {
      fetch(path, { method: "DELETE" });
      row.remove();
    };
    row.action("Cancel", drop);
    while (row.there) {
      if (job.state === "done") return row.finish(job, drop);
      if (job.state === "failed") return row.fail(job.error, drop);
      if (job.state === "waiting") row.say("waiting for other videos");
      if (job.state === "running") {
        const left = job.seconds_left === null ? "" : ` · ${Math.ceil(job.seconds_left)} s left`;
        row.say(`${job.frames}${job.expected ? ` of ${job.expected}` : ""} frames${left}`);
        row.progress(job.progress === null ? null : 0.1 + 0.9 * job.progress);
      }
      await new Promise((go) => setTimeout(go, POLL_MS));
      try {
        const answer = await fetch(path);
        if (answer.status === 404) return row.remove();
        job = await answer.json();
      } catch {
        row.say("server not reachable");
      }
    }
  }
}

class Row {
  constructor(name) {
    this.there = true;
    this.item = document.createElement("li");
    this.item.className = "job";
    const title = document.createElement("b");
    title.textContent = name;
    this.actions = document.createElement("div");
    this.actions.className = "actions";
    this.bar = document.createElement("progress");
    this.bar.max = 1;
    this.bar.value = 0;
    this.text = document.createElement("p");
    this.item.append(title, this.actions, this.bar, this.text);
    $("jobs").prepend(this.item);
  }

  say(text) {
    this.text.textContent = text;
  }

  progress(value) {
    if (value === null) this.bar.removeAttribute("value");
    else this.bar.value = value;
  }

  action(text, act) {
    const button = document.createElement("button");
    button.className = "button small";
    button.textContent = text;
    button.onclick = act;
    this.actions.replaceChildren(button);
    return button;
  }

  link(text, url, name) {
    const link = document.createElement("a");
    link.className = "button small strong";
    link.textContent = text;
    link.href = url;
    link.download = name;
    this.actions.prepend(link);
  }

  fail(why, drop) {
    this.item.classList.add("failed");
    this.bar.remove();
    this.say(why);
    this.action("Remove", drop || (() => this.remove()));
  }

  finish(job, drop) {
    this.bar.remove();
    this.say([`${job.frames} frames in ${job.seconds.toFixed(1)} s`, ...job.notes].join("\n"));
    this.action("Remove", drop);
    this.link("Download", job.result, "");
    const video = document.createElement("video");
    video.src = `${job.result}?inline=1`;
    video.controls = video.muted = video.loop = video.playsInline = video.autoplay = true;
    this.item.append(video);
  }

  showImage(url, name) {
    this.bar.remove();
    this.say("done");
    this.action("Remove", () => {
      URL.revokeObjectURL(url);
      this.remove();
    });
    this.link("Download", url, name);
    const image = document.createElement("img");
    image.src = url;
    image.alt = name;
    this.item.append(image);
  }

  remove() {
    this.there = false;
    this.item.remove();
  }
}
