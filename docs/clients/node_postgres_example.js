// Claims with node-postgres, which sends every parameter as text of unknown type.
// npm install pg@8
const assert = require('node:assert/strict');
const { Pool } = require('pg');

// A transaction for one user. set_config(..., true) is SET LOCAL with a parameter.
async function actingAs(pool, actor, work) {
  const client = await pool.connect();
  try {
    await client.query('BEGIN');
    await client.query("SELECT set_config('rowclaim.actor', $1, true)", [actor]);
    const result = await work(client);
    await client.query('COMMIT');
    return result;
  } catch (error) {
    await client.query('ROLLBACK');
    throw error;
  } finally {
    client.release();
  }
}

// Runs a statement that is refused: its SQLSTATE, and DETAIL, which is a JSON object.
async function refusal(pool, actor, sql, params) {
  try {
    await actingAs(pool, actor, (client) => client.query(sql, params));
  } catch (error) {
    return [error.code, JSON.parse(error.detail)];
  }
  assert.fail(`not refused: ${sql}`);
}

async function main() {
  const pool = new Pool();
  const first = async (client, sql, params) => (await client.query(sql, params)).rows[0];

  const claim = await actingAs(pool, 'alice', (client) =>
    first(client, "SELECT * FROM claim_row('parts', $1, ttl => $2)", [2, '30 min']));
  // bigint comes as a string.
  assert.deepEqual([claim.status, claim.owner, claim.row_version], ['granted', 'alice', '1']);
  assert.match(claim.token, /^\d+$/);
  const denied = await actingAs(pool, 'bob', (client) => first(client, "SELECT * FROM claim_row('parts', $1)", [2]));
  assert.deepEqual([denied.status, denied.owner, denied.token], ['denied', 'alice', null]);
  console.log('alice:', claim.status, '- bob:', denied.status, '-', denied.message);

  let [code, detail] = await refusal(pool, 'bob', 'UPDATE parts SET price = $1 WHERE id = $2', ['0.50', 2]);
  assert.deepEqual([code, detail.reason, detail.key, detail.owner], ['55P03', 'row_held', { id: 2 }, 'alice']);
  console.log('bob writes:', code, detail.reason, detail.owner);
  [code, detail] = await refusal(pool, 'bob', 'DELETE FROM parts WHERE id = $1', [1]);
  assert.deepEqual([code, detail], ['55000', { reason: 'row_not_claimed', table: 'public.parts', key: { id: 1 } }]);

  await actingAs(pool, 'alice', (client) => client.query('UPDATE parts SET price = $1 WHERE id = $2', ['0.12', 2]));
  const { seq } = await actingAs(pool, 'alice', (client) =>
    first(client, 'SELECT commit_changes($1, release => true) AS seq', ['new price']));
  const change = await first(pool, 'SELECT * FROM rowclaim.changes WHERE seq = $1', [seq]);
  assert.deepEqual([change.actor, change.op, change.key, change.new], ['alice', 'update', { id: 2 }, { price: 0.12 }]);
  console.log('changeset', seq, 'by', change.actor, '-', change.new);

  // A number, a string or an object is a key as it is.
  const document = '6f1b0c5e-2a52-4a8e-9d0e-3b6b2f3c7a11';
  const keys = [
    ['parts', 3, { id: 3 }], ['parts', '3', { id: 3 }], ['parts', 3n, { id: 3 }],
    ['documents', document, { id: document }], ['holidays', '2026-12-24', { day: '2026-12-24' }],
    ['order_lines', { order_id: 7, line: 2 }, { order_id: 7, line: 2 }],
  ];
  for (const [table, key, shown] of keys) {
    await actingAs(pool, 'alice', async (client) => {
      assert.equal((await first(client, 'SELECT status FROM claim_row($1, $2)', [table, key])).status, 'granted');
      assert.deepEqual((await client.query('SELECT key FROM rowclaim.claims')).rows, [{ key: shown }]);
      assert.equal((await first(client, 'SELECT release_row($1, $2) AS released', [table, key])).released, true);
    });
  }
  // An array needs the cast.
  const lists = [
    ['parts', 'int', [3, 1, 2]], ['parts', 'text', ['3', '1', '2']], ['documents', 'uuid', [document]],
    ['holidays', 'date', ['2026-12-31', '2026-12-24']],
    ['order_lines', 'jsonb', [{ order_id: 7, line: 2 }, { order_id: 7, line: 1 }]],
  ];
  for (const [table, type, list] of lists) {
    await actingAs(pool, 'alice', async (client) => {
      const { rows } = await client.query(`SELECT status FROM claim_rows($1, $2::${type}[])`, [table, list]);
      assert.deepEqual(rows, list.map(() => ({ status: 'granted' })));
      assert.equal((await first(client, 'SELECT release_rows() AS n')).n, String(list.length));
    });
  }
  console.log('keys: number, bigint, string, object, and arrays of them');
  await pool.end();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
