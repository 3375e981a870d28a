//! Claims with tokio-postgres. query_typed() sends parameters with their types and needs no named prepared statement,
//! so it works through pgbouncer too.
// cargo add tokio@1 --features macros,rt
// cargo add tokio-postgres@0.7.18 --features with-serde_json-1,with-uuid-1
// cargo add serde_json@1 uuid@1
use serde_json::{json, Value};
use std::env::var;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, NoTls, Row, Transaction};
use uuid::Uuid;

type Param<'a> = (&'a (dyn ToSql + Sync), Type);

/// A transaction for one user. set_config(..., true) is SET LOCAL with a parameter.
async fn acting_as<'a>(client: &'a mut Client, actor: &str) -> Result<Transaction<'a>, Error> {
    let transaction = client.transaction().await?;
    transaction.query_typed("SELECT set_config('rowclaim.actor', $1, true)", &[(&actor, Type::TEXT)]).await?;
    Ok(transaction)
}

async fn one(transaction: &Transaction<'_>, sql: &str, params: &[Param<'_>]) -> Result<Row, Error> {
    Ok(transaction.query_typed(sql, params).await?.remove(0))
}

/// Runs a statement that is refused: its SQLSTATE, and DETAIL, which is a JSON object.
async fn refusal(client: &mut Client, actor: &str, sql: &str, params: &[Param<'_>]) -> Result<(String, Value), Error> {
    let transaction = acting_as(client, actor).await?;
    let error = transaction.query_typed(sql, params).await.expect_err("refused");
    let error = error.as_db_error().expect("an error of the server");
    let detail = serde_json::from_str(error.detail().expect("DETAIL")).expect("JSON");
    transaction.rollback().await?;
    Ok((error.code().code().to_string(), detail))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let mut config = tokio_postgres::Config::new();
    config.host(var("PGHOST").expect("PGHOST"));
    config.port(var("PGPORT").map_or(5432, |port| port.parse().expect("PGPORT")));
    config.user(var("PGUSER").expect("PGUSER"));
    config.dbname(var("PGDATABASE").expect("PGDATABASE"));
    let (mut client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);

    let transaction = acting_as(&mut client, "alice").await?;
    let claim = one(&transaction, "SELECT * FROM claim_row('parts', $1)", &[(&2, Type::INT4)]).await?;
    let (status, owner, token): (&str, &str, i64) = (claim.get("status"), claim.get("owner"), claim.get("token"));
    assert_eq!((status, owner, claim.get::<_, i64>("row_version")), ("granted", "alice", 1));
    transaction.commit().await?;

    let transaction = acting_as(&mut client, "bob").await?;
    let denied = one(&transaction, "SELECT * FROM claim_row('parts', $1)", &[(&2, Type::INT4)]).await?;
    assert_eq!((denied.get("status"), denied.get("owner")), ("denied", "alice"));
    assert_eq!(denied.get::<_, Option<i64>>("token"), None);
    transaction.commit().await?;
    println!("alice: {status} (token {token}) - bob: denied - {}", denied.get::<_, &str>("message"));

    let price: Param = (&"0.50", Type::TEXT);
    let sql = "UPDATE parts SET price = $1::numeric WHERE id = $2";
    let (sqlstate, detail) = refusal(&mut client, "bob", sql, &[price, (&2, Type::INT4)]).await?;
    assert_eq!(
        (sqlstate.as_str(), &detail["reason"], &detail["owner"]),
        ("55P03", &json!("row_held"), &json!("alice"))
    );
    println!("bob writes: {sqlstate} {} {}", detail["reason"], detail["owner"]);
    let (sqlstate, detail) =
        refusal(&mut client, "bob", "DELETE FROM parts WHERE id = $1", &[(&1, Type::INT4)]).await?;
    assert_eq!(sqlstate, "55000");
    assert_eq!(detail, json!({"reason": "row_not_claimed", "table": "public.parts", "key": {"id": 1}}));

    let transaction = acting_as(&mut client, "alice").await?;
    transaction.query_typed("UPDATE parts SET price = 0.12 WHERE id = $1", &[(&2, Type::INT4)]).await?;
    transaction.commit().await?;
    let transaction = acting_as(&mut client, "alice").await?;
    let message: Param = (&"new price", Type::TEXT);
    let seq: i64 = one(&transaction, "SELECT commit_changes($1, release => true)", &[message]).await?.get(0);
    let change = one(&transaction, "SELECT * FROM rowclaim.changes WHERE seq = $1", &[(&seq, Type::INT8)]).await?;
    let new: Value = change.get("new");
    assert_eq!((change.get("actor"), &new), ("alice", &json!({"price": 0.12})));
    transaction.commit().await?;
    println!("changeset {seq} by alice - {new}");

    // Keys and arrays of keys of different types.
    let document = Uuid::parse_str("6f1b0c5e-2a52-4a8e-9d0e-3b6b2f3c7a11").expect("uuid");
    let lines = [json!({"order_id": 7, "line": 2}), json!({"order_id": 7, "line": 1})];
    let line = lines[0].to_string();
    let keys: [(&str, Param); 9] = [
        ("parts", (&3i32, Type::INT4)),
        ("parts", (&3i64, Type::INT8)),
        ("parts", (&"3", Type::TEXT)),
        ("parts", (&"3", Type::VARCHAR)),
        ("parts", (&"3", Type::UNKNOWN)),
        ("documents", (&document, Type::UUID)),
        ("holidays", (&"2026-12-24", Type::TEXT)),
        ("order_lines", (&lines[0], Type::JSONB)),
        ("order_lines", (&line, Type::TEXT)),
    ];
    let lists: [(&str, usize, Param); 4] = [
        ("parts", 3, (&&[3i32, 1, 2][..], Type::INT4_ARRAY)),
        ("parts", 3, (&&["3", "1", "2"][..], Type::TEXT_ARRAY)),
        ("documents", 1, (&&[document][..], Type::UUID_ARRAY)),
        ("order_lines", 2, (&&lines[..], Type::JSONB_ARRAY)),
    ];
    let transaction = acting_as(&mut client, "alice").await?;
    for (table, key) in keys {
        let params = [(&table as &(dyn ToSql + Sync), Type::TEXT), key];
        let claim = one(&transaction, "SELECT status FROM claim_row($1::regclass, $2)", &params).await?;
        assert_eq!(claim.get::<_, &str>(0), "granted", "{params:?}");
        let release = one(&transaction, "SELECT release_row($1::regclass, $2)", &params).await?;
        assert!(release.get::<_, bool>(0), "{params:?}");
    }
    for (table, count, list) in lists {
        let params = [(&table as &(dyn ToSql + Sync), Type::TEXT), list];
        let claims = transaction.query_typed("SELECT status FROM claim_rows($1::regclass, $2)", &params).await?;
        assert_eq!(claims.iter().map(|row| row.get(0)).collect::<Vec<&str>>(), vec!["granted"; count]);
        assert_eq!(one(&transaction, "SELECT release_rows()", &[]).await?.get::<_, i64>(0), count as i64);
    }
    // query() asks the server for the types. Without a cast a key is text.
    for (sql, expected) in [("claim_row('parts', $1)", Type::TEXT), ("claim_row('parts', $1::int)", Type::INT4)] {
        let statement = transaction.prepare(&format!("SELECT status FROM {sql}")).await?;
        assert_eq!(statement.params(), [expected]);
    }
    transaction.commit().await?;
    println!("keys: int4, int8, text, varchar, unknown, uuid, jsonb, and arrays of them");
    Ok(())
}
