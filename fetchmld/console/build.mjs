// Bundles src/ into static/: one script, one style sheet, one page. Called by setup.py when the package is built.
import { build } from "esbuild";
import { copyFile, mkdir, rm } from "node:fs/promises";

await rm("static", { recursive: true, force: true });
await mkdir("static");
await build({
  entryPoints: { console: "src/main.js" },
  outdir: "static",
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  legalComments: "linked",
  logLevel: "warning",
});
await copyFile("src/index.html", "static/index.html");
await copyFile("src/icon.svg", "static/icon.svg");
