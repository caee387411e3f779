def write_page(records, folder):
    pass
