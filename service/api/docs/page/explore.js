// Renders the OpenAPI document as forms, and sends the requests. All values are inserted as text,
// never as markup.

const token = document.getElementById("token");
const main = document.getElementById("operations");

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function resolved(description, node) {
  if (!node || !node.$ref) return node;
  return node.$ref.slice(2).split("/").reduce((at, step) => at[step], description);
}

// An example that fits a schema, which the user can change.
function example(description, schema) {
  const shape = resolved(description, schema);
  if (shape.enum) return shape.enum[shape.enum.length - 1];
  if (shape.type === "object") {
    const required = shape.required ?? [];
    return Object.fromEntries(required.map((field) => [field, example(description, shape.properties[field])]));
  }
  return { array: [], integer: 0, boolean: false }[shape.type] ?? "";
}

function choices(schema) {
  return schema.enum ?? (schema.anyOf ?? []).flatMap((one) => (one.const ? [one.const] : []));
}

function field(parameter) {
  const schema = parameter.schema ?? {};
  const wanted = parameter.required ? (choices(schema)[0] ?? "") : "";
  const input = element("input", { value: wanted, spellcheck: false, placeholder: choices(schema).join(" | ") });
  const where = parameter.in === "query" ? "" : ` (${parameter.in})`;
  const label = element("label", {}, `${parameter.name}${where}: ${parameter.description ?? ""}`, input);
  return { parameter, input, label };
}

function quoted(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

function request(path, method, fields, body) {
  const query = new URLSearchParams();
  const headers = {};
  for (const { parameter, input } of fields) {
    if (!input.value) continue;
    if (parameter.in === "path") path = path.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
    else if (parameter.in === "query") query.set(parameter.name, input.value);
    else headers[parameter.name] = input.value;
  }
  const url = new URL(`.${path}${query.size ? `?${query}` : ""}`, document.baseURI);
  if (body) headers["Content-Type"] = "application/json";
  const curl = ["curl -i", method === "GET" ? "" : `-X ${method}`, ...Object.entries(headers).map(([name, value]) => `-H ${quoted(`${name}: ${value}`)}`)];
  if (token.value) {
    headers.Authorization = `Bearer ${token.value}`;
    curl.push('-H "Authorization: Bearer $CLUSTER_EVENTS_TOKEN"');
  }
  if (body) curl.push(`-d ${quoted(body)}`);
  return { url, headers, curl: [...curl.filter(Boolean), quoted(url.href)].join(" ") };
}

async function send(url, options) {
  try {
    const reply = await fetch(url, { ...options, cache: "no-store" });
    const text = await reply.text();
    const fields = [...reply.headers].map(([name, value]) => `${name}: ${value}`).join("\n");
    let shown = text;
    try {
      shown = JSON.stringify(JSON.parse(text), null, 2);
    } catch {
      // The body is not JSON.
    }
    return `${reply.status} ${reply.statusText}\n${fields}\n\n${shown}`;
  } catch (error) {
    return `No response: ${error.message}`;
  }
}

function operation(description, path, method, what) {
  const fields = (what.parameters ?? []).map((one) => field(resolved(description, one)));
  const content = resolved(description, what.requestBody)?.content?.["application/json"];
  const body = content && element("textarea", { value: JSON.stringify(example(description, content.schema), null, 2), spellcheck: false });
  const curl = element("pre", { hidden: true });
  const reply = element("pre", { hidden: true, role: "status", tabIndex: 0 });
  const button = element("button", { type: "button" }, "Send");
  button.addEventListener("click", async () => {
    const { url, headers, curl: line } = request(path, method.toUpperCase(), fields, body?.value);
    curl.textContent = line;
    reply.textContent = "…";
    curl.hidden = reply.hidden = false;
    reply.textContent = await send(url, { method: method.toUpperCase(), headers, body: body?.value });
  });
  const rows = Object.entries(what.responses).map(([status, one]) => element("tr", {}, element("td", {}, status), element("td", {}, resolved(description, one).description)));
  const open = what.security && what.security.length === 0;
  return element(
    "details",
    {},
    element("summary", {}, element("span", { className: `method ${method}` }, method.toUpperCase()), element("code", {}, path), element("span", { className: "what" }, what.summary ?? "")),
    element(
      "div",
      { className: "body" },
      ...(what.description ? [element("p", {}, what.description)] : []),
      ...(open ? [element("p", {}, "Needs no token.")] : []),
      ...fields.map((one) => one.label),
      ...(body ? [element("label", {}, "Body", body)] : []),
      button,
      curl,
      reply,
      element("table", {}, element("tbody", {}, ...rows)),
    ),
  );
}

async function render() {
  const description = await (await fetch("openapi.json")).json();
  document.getElementById("about").textContent = `${description.info.description} Version ${description.info.version}, OpenAPI ${description.openapi}.`;
  const sections = new Map((description.tags ?? []).map((tag) => [tag.name, [element("h2", {}, tag.name), element("p", {}, tag.description ?? "")]]));
  for (const [path, methods] of Object.entries(description.paths))
    for (const [method, what] of Object.entries(methods)) {
      const tag = what.tags?.[0] ?? "other";
      if (!sections.has(tag)) sections.set(tag, [element("h2", {}, tag)]);
      sections.get(tag).push(operation(description, path, method, what));
    }
  main.replaceChildren(...[...sections.values()].flat());
  main.setAttribute("aria-busy", "false");
}

render().catch((error) => {
  main.replaceChildren(element("p", {}, `Cannot load the API description: ${error.message}`));
  main.setAttribute("aria-busy", "false");
});
