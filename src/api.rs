//! HTTP and websocket in ComfyUI's shapes; the only home of wire JSON.
//!
//! Deliberately does not know how anything is computed.
