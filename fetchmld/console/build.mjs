// Bundles src/ into static/: one script, one style sheet, one page. Called by setup.py when the package is built.
import { build } from "esbuild";
import { copyFile, mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";

await rm("static", { recursive: true, force: true });
await mkdir("static");
await build({
  entryPoints: { console: "src/main.js" },
  outdir: "static",
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  legalComments: "none",
  logLevel: "warning",
});

// The licences of what is bundled go with it.
const { dependencies } = JSON.parse(await readFile("package.json"));
const licences = await Promise.all(
  Object.keys(dependencies).map(async (name) => {
    const file = (await readdir(`node_modules/${name}`)).find((each) => /^licen[cs]e/i.test(each));
    return `${name} ${dependencies[name]}\n\n${file ? await readFile(`node_modules/${name}/${file}`, "utf8") : "see its package"}`;
  }),
);
await writeFile("static/licences.txt", licences.join("\n\n----\n\n"));
await copyFile("src/index.html", "static/index.html");
await copyFile("src/icon.svg", "static/icon.svg");
