// Makes golden_js.f32 of some architecture with @huggingface/transformers in Node.js; the tests read it, and need no
// Node.js. To regenerate, in a folder of its own:
//
//     npm install @huggingface/transformers@4.3.2
//     python -c "import json, numpy as n; print(json.dumps({k: v.tolist() for k, v in n.load('GOLDENS/images.npz').items()}))" > images.json
//     node make_goldens_js.mjs GOLDENS images.json
//
// The pipeline's predicted_depth of all images, one after the other, as little-endian float32.
// GLPN and ZoeDepth cannot be had: transformers.js has no GLPNImageProcessor and no ZoeDepth.
import fs from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { env, pipeline, RawImage } from '@huggingface/transformers';

const [goldens, images] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = path.resolve(goldens);
for (const name of ['depth_anything', 'dpt']) {
  const options = { dtype: 'fp32', device: 'cpu', subfolder: '' };
  const estimate = await pipeline('depth-estimation', name, options);
  const found = [];
  for (const rows of Object.values(JSON.parse(fs.readFileSync(images, 'utf8')))) {
    const pixels = new Uint8ClampedArray(rows.flat(2));
    const { predicted_depth } = await estimate(new RawImage(pixels, rows[0].length, rows.length, 3));
    found.push(Buffer.from(predicted_depth.data.buffer));
  }
  fs.writeFileSync(path.join(goldens, name, 'golden_js.f32'), Buffer.concat(found));
}
