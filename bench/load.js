// Load for bench.http, run by k6. Open loop (RATE) or a fixed number of clients (CLIENTS); the last output is JSON.
import http from 'k6/http';
import exec from 'k6/execution';
import { Counter, Trend } from 'k6/metrics';

const images = JSON.parse(__ENV.IMAGES).map((path) => open(path, 'b'));
const rate = Number(__ENV.RATE || 0);
const seconds = Number(__ENV.SECONDS);
const okLatency = new Trend('ok_latency', false);
const shedLatency = new Trend('shed_latency', false);
const statuses = {};
for (const status of [0, 200, 429, 500, 502, 503, 504]) statuses[status] = new Counter(`status_${status}`);
const others = new Counter('status_other');

const open_loop = {
  executor: 'constant-arrival-rate', rate, timeUnit: '1s', duration: `${seconds}s`,
  preAllocatedVUs: 50, maxVUs: Number(__ENV.MOST_CLIENTS || 400),
};
const closed_loop = { executor: 'constant-vus', vus: Number(__ENV.CLIENTS || 1), duration: `${seconds}s` };

export const options = {
  scenarios: { load: { ...(rate ? open_loop : closed_loop), gracefulStop: '60s' } },
  summaryTrendStats: ['count', 'med', 'p(95)', 'p(99)', 'max'],
  discardResponseBodies: true,
};

export default function () {
  const number = exec.scenario.iterationInTest;
  // From when the request was due: a service that stalls delays those that were due meanwhile, and must not hide it.
  const due = rate ? exec.scenario.startTime + (number * 1000) / rate : Date.now();
  const response = __ENV.METHOD === 'GET'
    ? http.get(__ENV.URL)
    : http.post(`${__ENV.URL}&seed=${number}`, images[number % images.length], { timeout: '120s' });
  const latency = rate ? Math.max(Date.now() - due, response.timings.duration) : response.timings.duration;
  (statuses[response.status] || others).add(1);
  if (response.status === 200) okLatency.add(latency);
  if (response.status === 503 || response.status === 429) shedLatency.add(response.timings.duration);
}

export function handleSummary(data) {
  const of = (name, value) => (data.metrics[name] ? data.metrics[name].values[value] : 0);
  const latency = (name) => ({ p50: of(name, 'med'), p95: of(name, 'p(95)'), p99: of(name, 'p(99)'), max: of(name, 'max') });
  const counts = {};
  for (const name of [...Object.keys(statuses), 'other']) {
    if (of(`status_${name}`, 'count')) counts[name] = of(`status_${name}`, 'count');
  }
  const summary = {
    seconds, statuses: counts, not_sent: of('dropped_iterations', 'count'),
    ok_ms: latency('ok_latency'), shed_ms: latency('shed_latency'),
  };
  return { stdout: `\n${JSON.stringify(summary)}\n` };
}
