// The eviction environment: runs of models and policies, and a look at any policy on any scenario.
import { call, card, choice, field, fill, h, query, table } from "/web/dom.js";

export async function open(room) {
  const [found, policies] = await Promise.all([call("/api/eviction/runs"), call("/api/eviction/policies")]);
  const runs = found.runs;
  const columns = [
    { name: "run", text: true, value: (run) => h("a", { href: `#/run?${query({ run: run.run })}` }, run.run) },
    { name: "models", text: true, value: (run) => run.config ? run.config.targets.map((one) => one.model).join(", ") : "-" },
    { name: "set", text: true, value: (run) => run.config ? `${run.config.trace ? "trace" : run.config.split}, ${run.config.difficulty}` : "-" },
    { name: "rollouts", value: (run) => run.config ? (run.expected === null ? run.done : `${run.done} of ${run.expected}`) : "-" },
    { name: "failed", value: (run) => run.failed ?? "-" },
    { name: "started", text: true, value: (run) => run.config?.started?.replace("T", " ") ?? "" },
    { name: "", text: true, value: (run) => run.problem ? h("span", { class: "bad" }, run.problem) : "" },
  ];
  fill(room,
    h("h1", {}, "Eviction"),
    h("p", { class: "lead" }, "Fifteen windows; in each a decision maker evicts, compresses, swaps to the CPU or keeps."),
    h("h2", {}, "Runs"),
    card(runs.length ? table("Runs", columns, runs, { id: "runs" })
      : h("p", {}, "There is no run folder yet. Make one with ", h("code", {}, "kv-cache-rl eval"), "; then it stands here, live.")),
    h("h2", {}, "Look at a policy"),
    card(await looking("lru", policies)));
}

async function looking(chosen, policies) {
  const tier = choice(["easy", "medium", "hard"], "hard", { id: "tier", onchange: refill });
  const scenario = choice([], "", { id: "scenario" });
  const policy = choice([...policies.policies, policies.oracle], chosen, { id: "policy" });
  async function refill() {
    const found = await call(`/api/eviction/scenarios?${query({ difficulty: tier.value, split: "eval" })}`);
    fill(scenario, found.scenarios.map((one) => h("option", { value: one.id }, one.id)));
  }
  await refill();
  return h("form", { class: "fields", onsubmit: (event) => {
    event.preventDefault();
    location.hash = `#/episode?${query({ scenario: scenario.value, policy: policy.value })}`;
  } }, field("Tier", tier), field("Scenario", scenario), field("Policy", policy),
  h("button", { class: "go", type: "submit" }, "Watch"));
}
