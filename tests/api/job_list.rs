//! `/api/jobs`, which newer web interfaces ask.

use reqwest::StatusCode;
use serde_json::{Value as Json, json};

use super::jobs::{block, toys};
use super::server::Client;
use super::toys::{show, slow};

async fn list(client: &Client, query: &str) -> Vec<String> {
    let jobs = client.json(&format!("/api/jobs{query}")).await;
    jobs["jobs"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned()).collect()
}

async fn refused(client: &Client, query: &str) -> Json {
    let response = client.get(&format!("/api/jobs{query}")).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{query}");
    let answer: Json = response.json().await.unwrap();
    assert!(answer["error"].is_string(), "{answer}");
    answer
}

/// One job of each stage, the running one last: completed, failed, cancelled, pending, in progress.
async fn one_of_each(client: &Client) -> [String; 5] {
    let workflow = json!({"extra_data": {"extra_pnginfo": {"workflow": {"id": "flow"}}}});
    let completed = client.queue_for(&show("x"), workflow).await;
    client.finished(&completed).await;
    let fail = json!({"1": {"class_type": "ToyFail", "inputs": {"text": "no"}}});
    let failed = client.queue(&fail).await;
    client.finished(&failed).await;
    let cancelled = block(client).await;
    client.post(&format!("/api/jobs/{cancelled}/cancel"), "").await;
    client.finished(&cancelled).await;
    let running = block(client).await;
    let pending = client.queue(&slow("later", 1)).await;
    [completed, failed, cancelled, pending, running]
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_all_stages_are_listed_filtered_sorted_and_paged() {
    let server = toys().await;
    let client = server.client();
    let [completed, failed, cancelled, pending, running] = one_of_each(&client).await.map(|id| id);
    assert_eq!(list(&client, "").await.len(), 5);
    for (query, expected) in [
        ("?status=completed", &[&completed][..]),
        ("?status=failed", &[&failed]),
        ("?status=cancelled", &[&cancelled]),
        ("?status=pending", &[&pending]),
        ("?status=IN_PROGRESS", &[&running]),
        ("?status=,", &[]),
        ("?workflow_id=flow", &[&completed]),
        ("?workflow_id=other", &[]),
        ("?sort_order=asc&limit=2", &[&completed, &failed]),
        ("?sort_order=asc&limit=2&offset=1&status=completed,%20failed,cancelled", &[&failed, &cancelled]),
        ("?sort_by=execution_duration&limit=1&status=completed,failed,cancelled", &[&cancelled]),
        ("?offset=-7&limit=99&sort_order=asc&status=completed,failed", &[&completed, &failed]),
        ("?offset=99", &[]),
        ("?ids=", &[]),
        (&format!("?ids={failed},,{failed}"), &[&failed]),
    ] {
        assert_eq!(list(&client, query).await.iter().collect::<Vec<_>>(), expected, "{query}");
    }
    let page = client.json("/api/jobs?limit=2&offset=1").await["pagination"].take();
    assert_eq!(page, json!({"offset": 1, "limit": 2, "total": 5, "has_more": true}));
    let page = client.json("/api/jobs").await["pagination"].take();
    assert_eq!(page, json!({"offset": 0, "limit": null, "total": 5, "has_more": false}));
    for query in
        ["?status=done", "?sort_by=age", "?sort_order=up", "?limit=0", "?limit=-1", "?limit=x", "?offset=x"]
    {
        refused(&client, query).await;
    }
    let many: Vec<_> = (0..101).map(|number| format!("{number:08x}-0000-4000-8000-000000000000")).collect();
    refused(&client, &format!("?ids={}", many.join(","))).await;
    assert_eq!(refused(&client, "?ids=nobody,ABC").await["invalid_ids"], json!(["nobody", "ABC"]));
    assert_eq!(client.get("/jobs").await.status(), StatusCode::NOT_FOUND, "only below /api");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_job_is_told_with_all_that_belongs_to_it() {
    let server = toys().await;
    let client = server.client();
    let [completed, failed, _, pending, _] = one_of_each(&client).await;
    let job = client.json(&format!("/api/jobs/{completed}")).await;
    let times = ["create_time", "execution_start_time", "execution_end_time"];
    let times: Vec<_> = times.iter().map(|key| job[*key].as_u64().unwrap()).collect();
    assert!(times[0] > 1_600_000_000_000 && times.is_sorted(), "{times:?}");
    for (key, expected) in [
        ("id", json!(completed)),
        ("status", json!("completed")),
        ("priority", json!(0)),
        ("outputs_count", json!(0)),
        ("preview_output", json!({"content": "x", "nodeId": "1", "mediaType": "text"})),
        ("workflow_id", json!("flow")),
        ("outputs", json!({"1": {"text": ["x"]}})),
    ] {
        assert_eq!(job[key], expected, "{key}");
    }
    assert_eq!(job["execution_status"]["status_str"], "success");
    assert_eq!(job["workflow"]["prompt"]["1"]["class_type"], "ToyShow");
    assert_eq!(job["workflow"]["extra_data"]["create_time"], times[0]);
    let job = client.json(&format!("/api/jobs/{failed}")).await;
    assert_eq!(job["execution_error"]["node_type"], "ToyFail");
    let job = client.json(&format!("/api/jobs/{pending}")).await;
    assert_eq!(job["status"], "pending");
    for absent in ["outputs", "execution_end_time", "preview_output", "workflow_id"] {
        assert!(job.get(absent).is_none(), "{absent}");
    }
    let unknown = client.get("/api/jobs/unknown").await;
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
    assert_eq!(unknown.json::<Json>().await.unwrap(), json!({"error": "Job not found"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_cancelled_whether_they_wait_or_run() {
    let server = toys().await;
    let client = server.client();
    let cancel = async |path: &str, body: Json| {
        let response = client.post(path, body.to_string()).await;
        (response.status().as_u16(), response.json::<Json>().await.unwrap())
    };
    let done = |cancelled| (200, json!({"cancelled": cancelled}));
    let [completed, _, _, pending, running] = one_of_each(&client).await;
    for nothing in [&completed, "unknown"] {
        assert_eq!(cancel(&format!("/api/jobs/{nothing}/cancel"), json!({})).await, done(false));
    }
    assert_eq!(cancel("/api/jobs/cancel", json!({"job_ids": [completed]})).await, done(false));
    let both = json!({"job_ids": [completed, pending, running]});
    assert_eq!(cancel("/api/jobs/cancel", both).await, done(true));
    assert_eq!(client.finished(&running).await["status"]["messages"][2][0], "execution_interrupted");
    assert_eq!(client.get(&format!("/api/jobs/{pending}")).await.status(), StatusCode::NOT_FOUND);
    for bad in [json!({}), json!([]), json!({"job_ids": "x"}), json!({"job_ids": [completed, "x", 5]})] {
        assert_eq!(cancel("/api/jobs/cancel", bad).await.0, 400);
    }
    assert_eq!(client.post("/api/jobs/cancel", "{broken").await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_remembers_which_program_sent_it() {
    let server = toys().await;
    let client = server.client();
    let send = async |extra: Json| {
        let body = json!({"prompt": show("x"), "extra_data": extra}).to_string();
        let request = client.request(reqwest::Method::POST, "/prompt").header("Comfy-Usage-Source", "tool/1");
        let answer: Json = request.body(body).send().await.unwrap().json().await.unwrap();
        client.finished(answer["prompt_id"].as_str().unwrap()).await["prompt"][3].take()
    };
    assert_eq!(send(json!({})).await, json!({"comfy_usage_source": "tool/1"}));
    assert_eq!(send(json!({"comfy_usage_source": "own"})).await, json!({"comfy_usage_source": "own"}));
}
