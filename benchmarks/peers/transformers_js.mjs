// Depth of images with @huggingface/transformers: node transformers_js.mjs MODEL_FOLDER RUNS WIDTHxHEIGHT IMAGE...
// Prints one JSON line: milliseconds of each call, after one call to warm up. The size is the network's input size.
import { performance } from 'node:perf_hooks';
import path from 'node:path';
import process from 'node:process';
import { env, pipeline, RawImage } from '@huggingface/transformers';

const [folder, runs, size, ...names] = process.argv.slice(2);
const [width, height] = size.split('x').map(Number);
env.allowRemoteModels = false;
env.localModelPath = path.dirname(path.resolve(folder));
const depth = await pipeline('depth-estimation', path.basename(path.resolve(folder)), { dtype: 'fp32', device: 'cpu' });
const processor = depth.processor.image_processor ?? depth.processor;
processor.size = { width, height };
const images = await Promise.all(names.map((name) => RawImage.read(name)));
await depth(images[0]);
const times = [];
for (let run = 0; run < Number(runs); run += 1) {
  for (const image of images) {
    const started = performance.now();
    await depth(image);
    times.push(performance.now() - started);
  }
}
const { user, system } = process.cpuUsage();
console.log(JSON.stringify({ times, cpu_ms: (user + system) / 1000 }));
