// Each tenant of the case sends requests at a rate of its own, for as long as the case lasts.
import http from 'k6/http';
import { Trend } from 'k6/metrics';

const load = JSON.parse(open(__ENV.LOAD));
const took = new Trend('took', true);

export const options = {
  discardResponseBodies: true,
  systemTags: ['scenario'],
  scenarios: Object.fromEntries(load.senders.map((s, i) => [`s${i}`, {
    executor: 'constant-arrival-rate',
    exec: 'send',
    rate: Math.max(1, Math.round(s.rate * 60)),
    timeUnit: '1m',
    duration: `${load.seconds}s`,
    preAllocatedVUs: Math.max(2, Math.min(200, Math.ceil(s.rate / 5))),
    maxVUs: Math.max(20, Math.min(400, Math.ceil(s.rate))),
    gracefulStop: '5s',
    env: { SENDER: String(i) },
  }])),
};

export function send() {
  const s = load.senders[Number(__ENV.SENDER)];
  const headers = { authorization: `Bearer ${s.token}` };
  const repeats = s.repeats || 0;
  if (repeats > 0) {
    headers['idempotency-key'] = `${__VU}-${__ITER}-${Date.now()}`;
  }
  for (let i = 0; i <= repeats; i++) {
    const answer = http.request(s.method || 'GET', load.gateway + s.path, null, { headers, timeout: '10s' });
    took.add(answer.timings.duration, {
      tenant: s.tenant, kind: s.kind || '', code: String(answer.status), reason: answer.headers['X-Tenantmesh-Reason'] || '',
    });
    if (answer.status < 500) {
      break;
    }
  }
}
